"""Code that a model brings of its own: what it is, and an administrator's leave to run it.

Leave is for one pin: a Hub commit, or a local folder as it is now (a digest of all in it but the weights).
Anything else is refused again. What lies in no pin (another repository's code, a kernel to download, a
pickle) nobody can allow.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db.models.functions import Now

from playground import access, catalogue, hub, safety, weights
from playground.models import Model, ModelFormat, User

TYPED = 12
MAX_SHOWN = 400_000


class NotAllowed(Exception):
    """Leave cannot be given like this; the text says why."""


@dataclass(frozen=True)
class Own:
    """A model's own code. `pin` names exactly it; `files` are paths in the model."""

    pin: str
    files: tuple[str, ...]
    why: str

    @property
    def typed(self) -> str:
        """What an administrator types to show which code is meant."""
        return self.pin[:TYPED]


def of(model: Model) -> Own | None:
    """The code that stands between this model and its use; None where it has none, or more is wrong."""
    if model.source.startswith("hub:"):
        told: dict[str, Any] = model.origin.get("code", {})
        names = tuple(str(one["path"]) for one in told.get("files", ()))
        return Own(model.source.rpartition("@")[2], names, str(told.get("why", ""))) if told else None
    folder = _folder(model)
    if folder is None:
        return None
    try:
        weights.read_folder(folder)
    except weights.Refused as problem:
        judgement = problem.judgement
        if judgement and judgement.code:
            return Own(weights.code_digest(folder), judgement.code_files, judgement.refused)
    except OSError:
        return None
    return None


def text(model: Model, own: Own, path: str) -> str:
    """One of its files, to be read before leave is given. NotAllowed when it cannot be shown."""
    if path not in own.files:
        raise NotAllowed(f"{path[:80]} is none of its code.")
    if folder := _folder(model):
        file = folder / path
        if file.stat().st_size > MAX_SHOWN:
            raise NotAllowed(f"{path} is too long to be read here: look at it on the machine.")
        return file.read_text(errors="replace")
    repo, _, commit = model.source.removeprefix("hub:").rpartition("@")
    try:
        found = hub.text_of(repo, commit, path, MAX_SHOWN)
    except hub.HubError as problem:
        raise NotAllowed(str(problem)) from problem
    if not found:
        raise NotAllowed(f"{path} is empty, or too long to be read here.")
    return found


def texts(model: Model, own: Own) -> list[tuple[str, str, str]]:
    """Each of its files: (path, text, why that cannot be shown)."""

    def shown(path: str) -> tuple[str, str, str]:
        try:
            return path, text(model, own, path), ""
        except NotAllowed as refusal:
            return path, "", str(refusal)

    return [shown(path) for path in own.files]


def allow(model: Model, user: User, pin: str, typed: str) -> None:
    """Give leave for the code that was shown. NotAllowed unless it is still that, and was named by hand."""
    own = of(model)
    if own is None:
        raise NotAllowed("It has no code of its own that could be allowed.")
    if pin != own.pin:
        raise NotAllowed("Its files changed since you looked: read them again.")
    if typed.strip() != own.typed:
        raise NotAllowed(f"Type {own.typed} to show which code you mean.")
    values: dict[str, Any] = {"code_allowed_by": user, "code_allowed_at": Now(), "refused": ""}
    if not model.source.startswith("hub:"):
        values["origin"] = {**model.origin, "code": {"digest": own.pin}}
    # The same refusal must still stand: two administrators, or a rescan, may have been first.
    if Model.objects.filter(pk=model.pk, refused=model.refused).update(**values) != 1:
        raise NotAllowed("It changed while you read: look at it again.")
    access.audit(user, model.team, "allow code", f"model:{model.pk}", pin=own.pin, files=list(own.files))
    _bring_along(model)


def withdraw(model: Model, user: User) -> None:
    """Take the leave back. What runs goes on; configurations that ran it say so for ever."""
    values = {"code_allowed_by": None, "code_allowed_at": None}
    if Model.objects.filter(pk=model.pk, code_allowed_at__isnull=False).update(**values) != 1:
        return
    access.audit(user, model.team, "withdraw code", f"model:{model.pk}")
    model.refresh_from_db()
    if model.source.startswith("hub:"):
        why = model.origin.get("code", {}).get("why", "")
        Model.objects.filter(pk=model.pk).update(refused=why)
    else:
        catalogue.scan(model.team)


def _bring_along(model: Model) -> None:
    """The forms of a model that may be loaded now."""
    if not model.source.startswith("hub:"):
        catalogue.scan(model.team)
        return
    files = model.origin.get("code", {}).get("files", [])
    for form in model.formats.filter(kind=ModelFormat.Kind.SAFETENSORS):
        known = {one["path"] for one in form.files}
        form.files = [*form.files, *(one for one in files if one["path"] not in known)]
        form.save(update_fields=["files"])


def _folder(model: Model) -> Path | None:
    """Where a local model of safetensors lies on this machine."""
    if not model.source.startswith("local:"):
        return None
    folder = catalogue.root() / model.source.removeprefix("local:")
    try:
        safety.refuse_path(model.source.removeprefix("local:"))
    except safety.Refused:
        return None
    return folder if folder.is_dir() else None
