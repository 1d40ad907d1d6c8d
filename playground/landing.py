"""A model of a team's own on its way into the models folder: its name, its room, the last checks, the rename.

What comes by an upload or from a bucket gathers in a hidden folder beside the models, is judged there as a
whole, and only then gets its name. Knows nothing about where the bytes come from.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Sum

from playground import access, admission, catalogue, disk, jobs, quotas, safety, weights
from playground.jobs import JobFailed, Work
from playground.models import Job, Model, ModelFormat, Node, Team, Upload, User

INCOMING = ".incoming"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", re.ASCII)
MAX_DEPTH = 3


class LandingRefused(Exception):
    """It may not come here under that name or at that size; the text says why."""


class NotNeeded(LandingRefused):
    """This file is none of a model's; the others may still be one."""


def folder(team_pk: int, name: str) -> Path:
    """Where a model gathers until it is whole."""
    return catalogue.root() / INCOMING / f"{team_pk}-{name}"


def target(team_pk: int, name: str) -> str:
    """What its job works on: one at a time for a team's name."""
    return f"import:{team_pk}:{name}"


def check_name(name: str) -> None:
    """LandingRefused unless a model may be called that here: it becomes a folder's name."""
    if not NAME.fullmatch(name) or ".." in name or name.endswith((".", ".gguf")):
        raise LandingRefused(
            "A name has letters, digits, dots, hyphens and underscores, begins with a letter or a digit, and "
            "has at most 80 of them."
        )
    taken = catalogue.root() / name
    if taken.exists() or taken.is_symlink() or _taken_but_for_case(name):
        raise LandingRefused(f"{name} is taken: choose another name, or remove that model first.")


def check_path(path: str) -> None:
    """LandingRefused unless this file belongs to a model that may be loaded."""
    try:
        safety.refuse_path(path)
    except safety.Refused as problem:
        raise LandingRefused(str(problem)) from problem
    if path.count("/") >= MAX_DEPTH:
        raise LandingRefused(f"{path} lies too deep: a model has at most {MAX_DEPTH - 1} folders in another.")
    if not safety.needed(path):
        raise NotNeeded(f"{path} is left out: {safety.why_not(path)}")


def check_room(team: Team, wanted: int, user: User | None = None) -> None:
    """LandingRefused where `wanted` more bytes are too many for team or `user`; DiskFull past the disk's."""
    try:
        admission.check_storage(team, user, "models", wanted)
    except admission.QuotaReached as reached:
        raise LandingRefused(str(reached)) from reached
    disk.brake(catalogue.root(), wanted)


def most(team: Team) -> int:
    """Bytes that the team's own models may take together."""
    return quotas.storage_most(team, "models")


def usage(team: Team, person: User | None = None) -> int:
    """Bytes of the team's own models, of whole files on their way as uploads, of what imports left so far.

    Of one person's when one is named; what imports left is only the team's.
    """
    landed = ModelFormat.objects.filter(
        model__team=team, model__missing=False, model__origin__has_key="landed"
    )
    coming = Upload.objects.filter(team=team)
    if person:
        landed, coming = landed.filter(model__created_by=person), coming.filter(created_by=person)
    held = [rows.aggregate(total=Sum("size_bytes"))["total"] or 0 for rows in (landed, coming)]
    if person:
        return sum(held)
    uploads = {folder(team.pk, name) for name in coming.values_list("name", flat=True)}
    gathered = (catalogue.root() / INCOMING).glob(f"{team.pk}-*")
    return sum(held) + sum(weights.bytes_below(one) for one in gathered if one not in uploads)


def node() -> Node:
    """This machine: what comes in here lands here."""
    row = Node.objects.filter(name=settings.NODE_NAME).first()
    if row is None:
        raise LandingRefused(f"No worker runs on {settings.NODE_NAME}, where it would land: start one first.")
    return row


def land(work: Work, team: Team, name: str, landed: dict[str, str]) -> Model:
    """Judge what has gathered, give it its name and write it down. After a JobFailed it is still there.

    An attempt that was killed on the way is gone on with.
    """
    final = catalogue.root() / name
    if not has_landed(team, name):
        work.progress("checking")
        with jobs.alone(f"land:{name.lower()}") as held:
            if not held:
                raise JobFailed(f"{name} is being taken: choose another name.")
            try:
                check_name(name)
                _check_whole(folder(team.pk, name))
            except (LandingRefused, weights.Refused) as problem:
                raise JobFailed(str(problem)) from problem
            # Whose it is stands written before others can find it by its name.
            _announce(team, name, {"landed": landed, "node": settings.NODE_NAME})
            folder(team.pk, name).rename(final)
    model = catalogue.record(team, name, catalogue.forms(final))
    for form in model.formats.order_by("pk"):
        form.digest = catalogue.take_digest(catalogue.root() / form.path, work)
        form.save(update_fields=["digest"])
    access.audit(work.job.created_by, team, "import model", f"model:{model.pk}", name=name, landed=landed)
    return model


def has_landed(team: Team, name: str) -> bool:
    """Whether it got its name already, and only the end of the work is left."""
    if not NAME.fullmatch(name) or folder(team.pk, name).exists() or not (catalogue.root() / name).is_dir():
        return False
    return Model.objects.filter(team=team, source=f"local:{name}", origin__has_key="landed").exists()


def clear(team_pk: int, name: str) -> None:
    """Throw away what has gathered."""
    shutil.rmtree(folder(team_pk, name), ignore_errors=True)


def imports(team: Team) -> list[Job]:
    """The team's imports from buckets that run, or failed and left something."""
    rows = Job.objects.filter(team=team, kind=Job.Kind.IMPORT_MODEL, arguments__has_key="address")
    newest = {job.target: job for job in rows.select_related("team", "created_by", "node").order_by("pk")}
    return [job for job in newest.values() if job.state in Job.ACTIVE or _left_something(job)]


def _left_something(job: Job) -> bool:
    return job.state == Job.State.FAILED and folder(job.team_id, job.arguments["name"]).exists()


def give_up(job: Job, user: User) -> None:
    """Cancel an import that runs, or throw away what a failed one left."""
    if jobs.cancel(job, user) or "address" not in job.arguments:
        return
    if _left_something(job):
        clear(job.team_id, job.arguments["name"])
        access.audit(user, job.team, "discard import", f"job:{job.pk}", name=job.arguments["name"])


def active(team: Team, name: str) -> Job | None:
    return Job.objects.filter(team=team, target=target(team.pk, name), state__in=Job.ACTIVE).first()


def _announce(team: Team, name: str, origin: dict[str, Any]) -> None:
    """The row, and where its forms will lie: other teams' scans leave them alone from now on."""
    gathered = folder(team.pk, name)
    for hidden in gathered.rglob(".*"):
        hidden.unlink()
    values = {"name": name, "origin": origin, "missing": True}
    model, _ = Model.objects.update_or_create(team=team, source=f"local:{name}", defaults=values)
    for form in catalogue.forms(gathered):
        kind = ModelFormat.Kind.GGUF if form.suffix == ".gguf" else ModelFormat.Kind.SAFETENSORS
        model.formats.get_or_create(kind=kind, path=str(Path(name) / form.relative_to(gathered)))


def _check_whole(gathered: Path) -> None:
    """Every form in it, as if it lay in the models folder already."""
    weights.refuse_links_out(gathered, gathered)
    forms = catalogue.forms(gathered)
    if not forms:
        raise weights.Refused("It has neither a .gguf file nor a config.json with .safetensors files.")
    for form in forms:
        weights.inspect(form)


def _taken_but_for_case(name: str) -> bool:
    """Two names that differ in capitals alone are one name to people, and to some disks."""
    held = catalogue.root()
    return held.is_dir() and name.lower() in (entry.name.lower() for entry in held.iterdir())
