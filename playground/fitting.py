"""What would happen if a model were started: which engines can, what it needs, where it fits, the command.

Reads rows and adapters, changes nothing. Placement decides for real later; this tells people beforehand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from playground import catalogue, drafts, engines, environments, frame, measured, nodes
from playground.engines.base import Engine, EngineOptions, Hardware, LocalModel, Verdict
from playground.models import EngineEnvironment, Model, ModelFormat, Node
from playground.offers import Offer as Offer
from playground.room import Room

# Stands in the command for the port, which is only known when the engine starts.
PORT = 65535
GIB = 1 << 30


def offers(model: Model) -> list[Offer]:
    """Every engine's answer, with its default options; put right by the last start with those."""
    node, was_started = roomiest(), measured.any_of(model)
    found = []
    for adapter in engines.all():
        if adapter.is_elsewhere == model.is_elsewhere:
            row, verdict = catalogue.choose(model, adapter)
            one = answer(catalogue.local(row) if row else None, verdict, adapter, {}, node)
            form = row.pk if row else None
            found.append(put_right(one, {}, version_of(adapter, node), form) if was_started else one)
    return found


def offer(
    model: Model,
    adapter: Engine,
    options: Mapping[str, Any],
    node: Node | None,
    form: int | None = None,
    gpus: int | None = None,
) -> Offer:
    """One engine's answer with `options`, which were judged before.

    `form`: the key of one of its forms; `gpus`: how many were asked for.
    """
    local, verdict = catalogue.candidate(model, adapter, form)
    return answer(local, verdict, adapter, options, node, gpus)


def previews(forms: Sequence[LocalModel]) -> list[Offer]:
    """Every engine's answer to a model not in the catalogue yet, each to the best form it can load."""
    node = roomiest()
    return [_preview(forms, adapter, node) for adapter in engines.all() if not adapter.is_elsewhere]


def _preview(forms: Sequence[LocalModel], adapter: Engine, node: Node | None) -> Offer:
    fitting = [form for kind in adapter.kinds for form in forms if form.kind == kind]
    judged = [(form, adapter.supports(form)) for form in fitting]
    able = [(form, verdict) for form, verdict in judged if verdict.ok]
    if not judged:
        loads = " or ".join(ModelFormat.Kind(kind).label for kind in adapter.kinds)
        return Offer(adapter, Verdict(False, f"Loads {loads}; it has none."))
    answers = [answer(form, verdict, adapter, {}, node) for form, verdict in able or judged[:1]]
    return next((answer for answer in answers if answer.fits), answers[0])


def answer(
    local: LocalModel | None,
    verdict: Verdict,
    adapter: Engine,
    options: Mapping[str, Any],
    node: Node | None,
    gpus: int | None = None,
) -> Offer:
    """The engine's answer to one form of a model, with `options`."""
    if local is None or not verdict.ok:
        return Offer(adapter, verdict, local)
    parsed = adapter.Options.model_validate(dict(options))
    with_draft = drafts.beside(local, drafts.form(adapter, options))
    estimate = adapter.memory(with_draft, parsed, given(adapter, parsed, node, gpus))
    return Offer(adapter, verdict, local, estimate, node, asked=gpus)


def given(adapter: Engine, options: EngineOptions, node: Node | None, gpus: int | None = None) -> Hardware:
    """What of a node an engine would get with these options: so many of its GPUs, or none."""
    if node is None:
        return Hardware(1, 0)
    whole = nodes.hardware(node)
    taken = max(gpus or 1, adapter.gpus(options)) if environments.build_of(node, adapter) == "cuda" else 0
    return replace(whole, gpus=whole.gpus[:taken])


def put_right(
    offer: Offer,
    options: Mapping[str, Any],
    version: str,
    form: int | None,
    adapters: int = 0,
    extra: Sequence[str] = (),
) -> Offer:
    """The offer with what the last start of the same configuration took, if there was one."""
    if offer.estimate is None or offer.node is None:
        return offer
    start = measured.like(
        engine=offer.adapter.name,
        version=version,
        build=environments.build_of(offer.node, offer.adapter),
        form=form,
        options=options,
        adapters=adapters,
        extra=extra,
    )
    if start is None:
        return offer
    right = measured.corrected(offer.estimate, start)
    return replace(offer, estimate=right, start=start, worked_out=offer.estimate)


def roomiest() -> Node | None:
    """The live node that would take the largest model."""
    return max(
        frame.live_nodes(), key=lambda node: (bool(node.inventory.get("gpus")), free(node)), default=None
    )


def free(node: Node) -> int:
    """Bytes for a model there: of its emptiest GPU, else of main memory; 0 where it tells none."""
    return Room(node).free() or 0


def command(
    offer: Offer,
    options: Mapping[str, Any],
    version: str,
    served_name: str,
    extra: Sequence[str] = (),
    gpus: int | None = None,
) -> list[str]:
    """The argument list that would run, the port left open. `extra`: arguments an administrator adds."""
    if offer.local is None:
        return []
    adapter = offer.adapter
    parsed = adapter.Options.model_validate(dict(options))
    hardware = given(adapter, parsed, offer.node, gpus)
    folder = _folder(adapter, version, hardware.build)
    local = drafts.beside(offer.local, drafts.form(adapter, options))
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
