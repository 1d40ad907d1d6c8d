"""What would happen if a model were started: which engines can, what it needs, where it fits, the command.

Reads rows and adapters, changes nothing. Placement decides for real later; this tells people beforehand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground import catalogue, drafts, engines, environments, frame, nodes
from playground.engines.base import Engine, Estimate, Hardware, LocalModel, Verdict
from playground.models import EngineEnvironment, Model, Node

# Stands in the command for the port, which is only known when the engine starts.
PORT = 65535
GIB = 1 << 30


@dataclass(frozen=True)
class Offer:
    """One engine's answer to a model. `free` is what the roomiest node has; bytes."""

    adapter: Engine
    verdict: Verdict
    local: LocalModel | None = None
    estimate: Estimate | None = None
    node: Node | None = None
    free: int | None = None

    @property
    def ok(self) -> bool:
        return self.verdict.ok

    @property
    def fits(self) -> bool | None:
        """None where something is not known: never guessed."""
        if not self.ok:
            return False
        if self.estimate is None or self.estimate.total is None or self.free is None:
            return None
        return self.estimate.total <= self.free

    @property
    def words(self) -> str:
        """The verdict as a sentence for people."""
        if not self.ok:
            return self.verdict.why
        if self.node is None or self.free is None:
            return "Can load it; no node reports, so nothing is known about room."
        total = self.estimate.total if self.estimate else None
        if total is None:
            missing = " and ".join(self.estimate.unknown) if self.estimate else "its needs"
            return f"Can load it; {missing or 'its needs'} are not known."
        has = f"{self.node.name} has {_gib(self.free)} free"
        return (
            f"Fits: needs {_gib(total)}, {has}."
            if self.fits
            else f"Does not fit: needs {_gib(total)}, {has}."
        )

    @property
    def brief(self) -> str:
        """The verdict for a list, where the node's room stands beside it."""
        if not self.ok:
            return self.verdict.why
        total = self.estimate.total if self.estimate else None
        if total is None:
            return "can load it, needs are not known"
        if self.fits is None:
            return f"can load it, needs {_gib(total)}"
        return f"{'fits' if self.fits else 'does not fit'}, needs {_gib(total)}"


def offers(model: Model) -> list[Offer]:
    """Every engine's answer, with its default options."""
    node = roomiest()
    meant = [adapter for adapter in engines.all() if adapter.is_elsewhere == model.is_elsewhere]
    return [offer(model, adapter, {}, node) for adapter in meant]


def offer(
    model: Model, adapter: Engine, options: Mapping[str, Any], node: Node | None, form: int | None = None
) -> Offer:
    """One engine's answer with `options`, which were judged before. `form`: the key of one of its forms."""
    local, verdict = catalogue.candidate(model, adapter, form)
    return _answer(local, verdict, adapter, options, node)


def previews(forms: Sequence[LocalModel]) -> list[Offer]:
    """Every engine's answer to a model not in the catalogue yet, each to the best form it can load."""
    node = roomiest()
    return [_preview(forms, adapter, node) for adapter in engines.all() if not adapter.is_elsewhere]


def _preview(forms: Sequence[LocalModel], adapter: Engine, node: Node | None) -> Offer:
    fitting = [form for kind in adapter.kinds for form in forms if form.kind == kind]
    judged = [(form, adapter.supports(form)) for form in fitting]
    able = [(form, verdict) for form, verdict in judged if verdict.ok]
    if not judged:
        return Offer(adapter, Verdict(False, f"{adapter.title} loads {' or '.join(adapter.kinds)}."))
    answers = [_answer(form, verdict, adapter, {}, node) for form, verdict in able or judged[:1]]
    return next((answer for answer in answers if answer.fits), answers[0])


def _answer(
    local: LocalModel | None, verdict: Verdict, adapter: Engine, options: Mapping[str, Any], node: Node | None
) -> Offer:
    if local is None or not verdict.ok:
        return Offer(adapter, verdict, local)
    hardware = nodes.hardware(node) if node else Hardware(1, 0)
    estimate = adapter.memory(local, adapter.Options.model_validate(dict(options)), hardware)
    return Offer(adapter, verdict, local, estimate, node, free(node) if node else None)


def roomiest() -> Node | None:
    """The live node that would take the largest model."""
    return max(
        frame.live_nodes(), key=lambda node: (bool(node.inventory.get("gpus")), free(node)), default=None
    )


def free(node: Node) -> int:
    """Bytes for a model there: of its emptiest GPU, or of main memory where it has none."""
    gpus = node.inventory.get("gpus") or []
    if gpus:
        return max((gpu.get("memory_bytes") or 0) - (gpu.get("used_bytes") or 0) for gpu in gpus)
    return int(node.inventory.get("memory_available_bytes") or 0)


def command(
    given: Offer, options: Mapping[str, Any], version: str, served_name: str, extra: Sequence[str] = ()
) -> list[str]:
    """The argument list that would run, the port left open. `extra`: arguments an administrator adds."""
    if given.local is None:
        return []
    adapter = given.adapter
    hardware = nodes.hardware(given.node) if given.node else Hardware(1, 0)
    parsed = adapter.Options.model_validate(dict(options))
    folder = _folder(adapter, version, hardware.build)
    local = drafts.beside(given.local, drafts.form(adapter, options))
    line = adapter.line(folder, local, parsed, PORT, served_name, hardware, extra=extra)
    return [part.replace(str(PORT), "PORT") for part in line]


def version_of(adapter: Engine, node: Node | None) -> str:
    """The version that is taken when none is chosen."""
    return adapter.versions.get(environments.build_of(node, adapter) if node else "cpu", "")


def installed(adapter: Engine) -> list[EngineEnvironment]:
    """This engine's environments that any live node holds, newest first."""
    held = {digest for node in frame.live_nodes() for digest in node.inventory.get("environments") or []}
    return list(EngineEnvironment.objects.filter(engine=adapter.name, digest__in=held).order_by("-pk"))


def _folder(adapter: Engine, version: str, build: str) -> Path:
    """The installed environment's folder; before it is installed, a name that says so."""
    rows = EngineEnvironment.objects.filter(engine=adapter.name, version=version, build=build)
    row = rows.order_by("-pk").first()
    return environments.path(row) if row else Path(f"{adapter.name}-{version}")


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / (1 << 20):.0f} MiB"
