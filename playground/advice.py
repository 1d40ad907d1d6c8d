"""What would fit: the largest context, the fewest GPUs, and what another type of weights or cache would take.

Asks an engine's own arithmetic again with one option changed, until the answer turns.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import ValidationError

from playground import fitting
from playground.engines.base import Engine
from playground.offers import Offer
from playground.templatetags.figures import memory

STEP = 256
LARGEST = 10_000_000
# Choices that take the same are told together, by at most so many names.
NAMED = 3
USUAL = ("fp8", "q8_0", "bnb-8bit")


@dataclass(frozen=True)
class Effect:
    """What one choice of an option, or several that take the same, would take in all."""

    option: str
    choices: tuple[str, ...]
    total: int
    change: int
    fits: bool | None

    @property
    def size(self) -> int:
        return abs(self.change)

    @property
    def names(self) -> str:
        more = len(self.choices) - NAMED
        return ", ".join(self.choices[:NAMED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Advice:
    """None where it is not known, or the engine has no such option."""

    context: int | None = None
    """Tokens of the largest context that fits; 0 when none does."""
    asked: int | None = None
    """Tokens of the context as the form stands."""
    whole: int | None = None
    """Tokens the model was made for."""
    gpus: int | None = None
    """The fewest that hold it; 0 when all of the node's do not."""
    tensor: int | None = None
    """By how many of them each layer is shared then."""
    effects: tuple[Effect, ...] = ()

    given: int = 1
    """GPUs as the form stands."""
    trouble: str = ""
    """What the engine itself says it stumbles over."""

    @property
    def hint(self) -> str:
        """What to change so that it fits, as a sentence; not again what the trouble names already."""
        ways = []
        shorter = self.context and self.asked and self.context < self.asked
        if shorter and "context" not in self.trouble:
            ways.append(f"a context of {self.context:,}")
        if self.gpus and self.gpus > self.given:
            ways.append(f"{self.gpus} GPUs")
        for option in dict.fromkeys(one.option for one in self.effects):
            able = [one for one in self.effects if one.option == option and one.fits]
            if able:
                ways.append(f"{option} {_mildest(able)}")
        return f"It would fit with {_either(ways)}." if ways else ""


def of(offer: Offer, options: Mapping[str, Any], gpus: int | None = None) -> Advice:
    """For an offer with `options`, which were judged before."""
    if not offer.ok or offer.local is None or offer.node is None or offer.estimate is None:
        return Advice()
    again = _asker(offer, options, gpus)
    fewest, tensor = _fewest_gpus(offer, again, options)
    return Advice(
        context=_largest_context(offer, again),
        asked=offer.estimate.context,
        whole=offer.local.context_length,
        gpus=fewest,
        tensor=tensor,
        effects=tuple(_effects(offer, options, again)),
        given=offer.gpus,
        trouble=offer.estimate.trouble,
    )


Again = Callable[..., Offer]


def _asker(offer: Offer, options: Mapping[str, Any], gpus: int | None) -> Again:
    """`again(context=4096)`: the offer with that option changed."""
    assert offer.local is not None

    def again(count: int | None = gpus, **changed: Any) -> Offer:
        given = {name: value for name, value in {**options, **changed}.items() if value is not None}
        return fitting.answer(offer.local, offer.verdict, offer.adapter, given, offer.node, count)

    return again


def _largest_context(offer: Offer, again: Again) -> int | None:
    """By halves, in steps of 256 tokens; the model's own context is the end of it."""
    name = offer.adapter.context_option
    if not name or again().fits is None or (offer.local and offer.local.facts.get("encoder_only")):
        return None
    most = min(LARGEST, (offer.local and offer.local.context_length) or LARGEST)
    if again(**{name: most}).fits:
        return most
    low, high = 0, most // STEP + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if again(**{name: middle * STEP}).fits else (low, middle)
    return low * STEP


def _fewest_gpus(offer: Offer, again: Again, options: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(GPUs, tensor parallel size): by its first way of splitting, the others as they are.

    An engine without one spreads over all that it is given.
    """
    room = offer.room
    if room is None or not room.gpus or again().fits is None:
        return None, None
    split = offer.adapter.split_options[:1]
    others = offer.adapter.gpus(offer.adapter.Options.model_validate({**options, **dict.fromkeys(split, 1)}))
    for count in range(1, len(room.gpus) // others + 1):
        if again(count * others, **dict.fromkeys(split, count)).fits:
            return count * others, count if split else None
    return 0, None


def _effects(offer: Offer, options: Mapping[str, Any], again: Again) -> Iterator[Effect]:
    """Of each option that weighs, its choices by what they take; those that change nothing are left out."""
    now, shown = again().estimate, offer.estimate
    if now is None or now.total is None or shown is None or shown.total is None:
        return
    # An earlier start may have put right what is shown: the choices are told beside that.
    shift = shown.total - now.total
    for name in offer.adapter.weighing_options:
        found: dict[str, Effect] = {}
        for choice in _choices(offer.adapter, name, offer):
            if choice == options.get(name):
                continue
            other = _valid(again, name, choice)
            total = other.estimate.total if other and other.estimate else None
            if other is None or total is None or total == now.total:
                continue
            title = str(offer.adapter.Options.model_fields[name].title)
            new = Effect(title, (choice or "unset",), total + shift, total - now.total, other.fits)
            alike = memory(total)
            known = found.get(alike)
            found[alike] = replace(known, choices=(*known.choices, *new.choices)) if known else new
        yield from sorted(found.values(), key=lambda effect: effect.total)


def _valid(again: Again, name: str, choice: str | None) -> Offer | None:
    """None where the options refuse it beside the others."""
    try:
        return again(**{name: choice})
    except ValidationError:
        return None


def _choices(adapter: Engine, name: str, offer: Offer) -> list[str | None]:
    """The named ones of an option, and unset; none where only another build has it."""
    field = adapter.Options.model_fields[name]
    extra = field.json_schema_extra
    needs = extra.get("build") if isinstance(extra, dict) else None
    if needs and needs != ("cuda" if offer.room and offer.room.gpus else "cpu"):
        return []
    return [None, *_literals(field.annotation)]


def _literals(annotation: Any) -> list[str]:
    """The words of a Literal, alone or in a union."""
    found: list[str] = []
    for one in get_args(annotation):
        found += [one] if isinstance(one, str) else _literals(one)
    return found


def _mildest(able: list[Effect]) -> str:
    """The choice that most people take of those that fit, else the one that changes least."""
    choices = [choice for effect in able for choice in effect.choices]
    return next((one for one in USUAL if one in choices), max(able, key=lambda one: one.total).choices[0])


def _either(ways: list[str]) -> str:
    return ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} or {ways[-1]}"
