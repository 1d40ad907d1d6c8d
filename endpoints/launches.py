"""What the Promote… page shows and takes: the proposal, its difference to what is live, a launch's steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from endpoints import promotion, tested
from endpoints.models import Endpoint, Release
from playground import access, policy, standing
from playground.models import Configuration, Deployment, User

# The defaults a release may carry; a client's own values win over them.
SAMPLING: dict[str, tuple[str, type[int] | type[float]]] = {
    "temperature": ("Temperature", float),
    "top_p": ("Top p", float),
    "max_tokens": ("Most tokens", int),
    "seed": ("Seed", int),
}


class LaunchRefused(promotion.PromotionRefused):
    """Everything that was wrong with what was typed: field → sentence."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__(" ".join(faults.values()))
        self.faults = faults


@dataclass(frozen=True)
class Difference:
    """One line of what changes for those who call the endpoint."""

    name: str
    live: str
    new: str

    @property
    def changed(self) -> bool:
        return self.live != self.new


def proposal(
    deployment: Deployment,
    user: User,
    typed: Mapping[str, str],
    refusal: promotion.PromotionRefused | None = None,
) -> dict[str, Any]:
    """Everything the page needs; `typed` is kept as it was when the launch was refused."""
    prompts = tested.suggested(deployment)
    names = Endpoint.objects.filter(team=deployment.team).order_by("name")
    name = typed.get("endpoint", "")
    return {
        "deployment": deployment,
        "configuration": deployment.configuration,
        "standing": standing.of(deployment),
        "evidence": promotion.evidence(deployment),
        "names": names,
        "differences": [(row, _changes(row, deployment.configuration)) for row in names if row.live],
        "sampling": [(key, title, typed.get(key, "")) for key, (title, _) in SAMPLING.items()],
        "prompts": prompts,
        "typed": {
            "endpoint": name,
            "note": typed.get("note", ""),
            "in_place": typed.get("in_place", ""),
            "prompt": typed.get("prompt", str(prompts[0]) if prompts else ""),
        },
        "errors": _faults(refusal) if refusal else {},
        "may_promote": access.can(user, "promote", deployment.team),
    }


def _faults(refusal: promotion.PromotionRefused) -> Mapping[str, str]:
    if isinstance(refusal, LaunchRefused):
        return refusal.faults
    return {refusal.field or "whole": str(refusal)}


def _changes(endpoint: Endpoint, new: Configuration | None) -> list[Difference]:
    return [line for line in differences(endpoint, new) if line.changed]


def differences(endpoint: Endpoint, new: Configuration | None) -> list[Difference]:
    """The live release's configuration beside the new one, line by line."""
    live = endpoint.live.configuration if endpoint.live else None
    if live is None or new is None:
        return []
    options = sorted(live.options.keys() | new.options.keys())
    unset = "engine default"
    return [
        Difference("Model", live.model.name, new.model.name),
        Difference("Weights", live.format_digest[:12], new.format_digest[:12]),
        Difference("Engine", *(f"{row.engine} {row.environment.version}" for row in (live, new))),
        *(
            Difference(key, str(live.options.get(key, unset)), str(new.options.get(key, unset)))
            for key in options
        ),
    ]


def launch(deployment: Deployment, user: User, typed: Mapping[str, str]) -> Release:
    """Promote as the form says; what is refused names each field at fault."""
    sampling, faults = _sampling(typed)
    try:
        name = promotion.fitting_name(typed.get("endpoint", ""))
    except promotion.PromotionRefused as refusal:
        raise LaunchRefused({"endpoint": str(refusal), **faults}) from refusal
    try:
        prompt = tested.find(deployment.team, typed.get("prompt", ""))
    except promotion.PromotionRefused as refusal:
        raise LaunchRefused({"prompt": str(refusal), **faults}) from refusal
    if faults:
        raise LaunchRefused(faults)
    return promotion.promote(
        deployment,
        endpoint=name,
        user=user,
        sampling=sampling,
        note=typed.get("note", "")[:2000],
        in_place=bool(typed.get("in_place")),
        prompt=prompt,
    )


def _sampling(typed: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The sampling defaults that were filled in, and what is wrong with those outside the request policy."""
    found: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for key, (title, kind) in SAMPLING.items():
        if not (text := typed.get(key, "").strip()):
            continue
        try:
            found[key] = kind(text)
            policy.check({"messages": [{"role": "user", "content": ""}], key: found[key]}, chat=True)
        except ValueError:
            faults[key] = f"{title} is a {'whole ' if kind is int else ''}number."
        except policy.BadRequest as error:
            faults[key] = error.message
    return found, faults


def steps(release: Release) -> list[standing.Step]:
    """A starting release's way: those of its replica, then live."""
    replica = standing.of(release.deployment).replica
    done = standing.steps(replica) if replica else [standing.Step("queued", "now")]
    return [*done, standing.Step("live", "next")]
