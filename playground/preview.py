"""What a start would be with options that may be wrong or half filled in: judged, reckoned, as a command.

Reads rows and adapters, changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from playground import adapters, drafts, fitting, options
from playground.engines.base import Engine
from playground.models import Adapter, Model, Node
from playground.offers import Offer


@dataclass(frozen=True)
class Preview:
    """`options`: those that are right; `problems`: a sentence for each that is wrong, by its name."""

    offer: Offer
    options: dict[str, Any]
    problems: dict[str, str]
    command: list[str]


def of(
    model: Model,
    engine: Engine,
    given: Mapping[str, Any],
    node: Node | None,
    *,
    version: str,
    form: int | None = None,
    gpus: int | None = None,
    attached: Sequence[Adapter] = (),
    extra: Sequence[str] = (),
) -> Preview:
    """That start on `node`. `form`: the key of one of the model's; None: what would be taken."""
    clean, problems = judged(model, engine, given)
    offer = fitting.offer(model, engine, clean, node, form, gpus)
    if offer.local:
        offer = replace(offer, local=adapters.on(offer.local, list(attached)))
    offer = fitting.put_right(offer, clean, version, form, len(attached), list(extra))
    command = fitting.command(offer, clean, version, model.name, list(extra), gpus)
    return Preview(offer, clean, problems, command)


def judged(model: Model, engine: Engine, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The clean options, and a sentence for each wrong one; with one of a wrong type none is clean."""
    try:
        clean = options.parse(engine, dict(given))
    except options.OptionsRefused as refusal:
        return {}, refusal.fields
    problems = drafts.judge(model.team, model, engine, clean) | engine.objections(clean)
    return {name: value for name, value in clean.items() if name not in problems}, problems
