"""One column's effective request as it is compared: what it was sampled by, and whence.

Where a value comes from is told as far as it is known: asked for, the model's generation_config.json, or the
engine's own default.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from playground import effects, engines, tokenised
from playground.engines.base import SAMPLING
from playground.models import Generation
from playground.orm import orm

# Other names of the same parameter.
SAME = {"repeat_penalty": "repetition_penalty", "max_completion_tokens": "max_tokens"}
ASKED, FILE, OWN, TOLD = "asked", "file", "own", "told"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Value:
    """What a column sampled by, and whence: ASKED, FILE, OWN, or TOLD where whence is not known."""

    value: Any
    source: str

    @property
    def words(self) -> str:
        return {
            ASKED: "asked for",
            FILE: "from generation_config.json",
            OWN: "the engine's own default",
            TOLD: "by default",
        }[self.source]


@dataclass(frozen=True)
class Look:
    """One column's effective request. `facts`: what else makes it another one, by title, in order."""

    name: str
    body: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    rendered: str | None = None
    token_ids: tuple[int, ...] | None = None
    by: str = ""
    sampled: Mapping[str, Value] = field(default_factory=dict)
    reads_file: bool | None = None
    """Whether its engine samples by generation_config.json; None: not known."""
    facts: Mapping[str, str] = field(default_factory=dict)


async def seen(generation: Generation, name: str) -> Look:
    """What came of one column's request; its engine is asked for what is not kept yet."""
    found = await effects.look(generation)
    return await orm(_look, generation, name, found)


def _config(generation: Generation) -> Mapping[str, Any] | None:
    """The model's generation_config.json, {} where it has none; None where its files are not here."""
    folder = tokenised.folder_of(generation)
    return None if folder is None else _read(folder / "generation_config.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as problem:
        log.debug("%s is not read: %s", path.name, problem)
        return {}
    return found if isinstance(found, dict) else {}


def _look(generation: Generation, name: str, found: Mapping[str, Any]) -> Look:
    engine, config = engine_of(generation), _config(generation)
    options = generation.configuration.options if generation.configuration else {}
    adapter = engines.get(engine) if engine else None
    unsent = adapter.quirks.refused if adapter else frozenset()
    ids = found["token_ids"]
    look = Look(
        name,
        found["body"],
        tuple(one for one in found["ignored"] if one not in unsent),
        tuple(one for one in found["ignored"] if one in unsent),
        found["rendered"],
        None if ids is None else tuple(ids),
        found["by"] or "",
        facts=facts(generation),
    )
    if adapter is None or adapter.is_elsewhere:
        return replace(look, sampled=sampled(look, found["added"] or {}, {}, None))
    reads = adapter.model_defaults({}, options) is not None
    filed = None if config is None else adapter.model_defaults(config, options) or {}
    return replace(look, reads_file=reads, sampled=sampled(look, found["added"] or {}, filed, reads))


def engine_of(generation: Generation) -> str:
    """The name of the engine that answered, "" where its deployment is gone."""
    if generation.configuration is not None:
        return generation.configuration.engine
    return generation.column.deployment.engine if generation.column.deployment else ""


def sampled(
    look: Look, added: Mapping[str, Any], filed: Mapping[str, Any] | None, reads: bool | None
) -> dict[str, Value]:
    """What was sampled by, as far as request, engine (`added`) and the model's file (`filed`) tell.

    `filed` None: the file is not on this machine. `reads`: whether the engine goes by it.
    """
    found: dict[str, Value] = {}
    for name in (*SAMPLING, "seed", "max_completion_tokens"):
        own, file = SAME.get(name, name), (filed or {}).get(name)
        if look.body.get(name) is not None and name not in look.ignored:
            found[own] = Value(look.body[name], ASKED)
        elif added.get(name) is not None:
            known = reads is False or (reads and filed is not None)
            whence = FILE if file is not None and file == added[name] else OWN if known else TOLD
            found.setdefault(own, Value(added[name], whence))
        elif file is not None:
            found.setdefault(own, Value(file, FILE))
    return found


def facts(generation: Generation) -> dict[str, str]:
    """What beside the request itself makes an answer another one."""
    found: dict[str, str] = {}
    configuration = generation.configuration
    if configuration is not None:
        found["model"] = f"{configuration.model.name}"
        form = configuration.format
        found["weights"] = f"{form.get_kind_display()} {form.dtype}".strip()
        found["version"] = f"{engines.get(configuration.engine).title} {configuration.environment.version}"
        for option, value in configuration.options.items():
            found[f"option {option}"] = json.dumps(value)
    found["adapter"] = generation.column.adapter or "none"
    return found


def not_greedy(look: Look) -> str:
    """Why an answer's tokens were not simply the likeliest, as a sentence; "" where they were."""
    temperature, top_k = look.sampled.get("temperature"), look.sampled.get("top_k")
    if (top_k and top_k.value == 1) or (temperature and temperature.value == 0):
        return ""
    if temperature is None:
        return f"It is not known by which temperature {look.name} sampled: set it to 0 and ask again."
    return f"{look.name} sampled at temperature {temperature.value:g}: answers part by chance."
