"""What a person asks a load run to do: levels, prompts, limits. Read from a form, refused by field, and kept.

Knows no rows and asks no engine.
"""

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from playground import policy

LEVELS = 12
REQUESTS = 2000
RUN_S = 20 * 60.0
AT_ONCE = 512
A_SECOND = 200.0
TOKENS = 8192
WARM_UP = 50
LIMIT_MS = 3_600_000.0
BYTES = 1 << 20
LINE_ERRORS = 5
DEFAULTS = {
    "levels": "1, 2, 4",
    "requests": "20",
    "seconds": "",
    "max_tokens": "64",
    "warm_up": "2",
    "seed": "1",
    "fixed": "on",
    "ttft": "",
    "tpot": "",
    "e2e": "",
    "source": "message",
    "prompts": "",
    "dataset": "",
}
# A line of a file is "line 1" of itself to the JSON reader.
ITS_PLACE = re.compile(r"line 1 column")
Prompt = str | list[dict[str, Any]]


class LoadRefused(Exception):
    """The run is not started; `fields` has a sentence for each field that is wrong, "" for the whole."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(" ".join(fields.values()))
        self.fields = dict(fields)


@dataclass(frozen=True)
class Level:
    """So many requests at once (closed loop), or so many a second whatever comes back (open loop)."""

    open: bool
    value: float

    @property
    def label(self) -> str:
        """As it is typed: "4", "0.5/s"."""
        return f"{self.value:g}/s" if self.open else f"{self.value:g}"

    @property
    def words(self) -> str:
        return f"{self.value:g} requests/s" if self.open else f"{self.value:g} at once"


@dataclass(frozen=True)
class Wanted:
    """One run, but for its columns. `seconds`: how long a level sends at most; None: until all are sent."""

    levels: tuple[Level, ...]
    requests: int
    max_tokens: int
    prompts: tuple[Prompt, ...]
    seconds: float | None = None
    warm_up: int = 2
    seed: int = 1
    fixed: bool = True
    """Ask the engine for exactly `max_tokens`, where it can."""
    limits: Mapping[str, float | None] = field(default_factory=dict)
    source: str = "message"
    dataset: str = ""
    """What the prompts are of, in words."""

    def kept(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"levels": [asdict(level) for level in self.levels]}

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "Wanted":
        """From what `kept` made; anything beside it is left alone."""
        names = cls.__dataclass_fields__.keys()
        values = {name: kept[name] for name in names if name in kept}
        levels = tuple(Level(**level) for level in kept["levels"])
        return cls(**values | {"levels": levels, "prompts": tuple(kept["prompts"])})

    @property
    def timed_each(self) -> int:
        """Timed requests of each column, at most."""
        return sum(
            len(self.arrivals(index)) if level.open else self.requests
            for index, level in enumerate(self.levels)
        )

    @property
    def asked_each(self) -> int:
        """Requests of each column, at most: with those that warm up."""
        return self.timed_each + self.warm_up * len(self.levels)

    def arrivals(self, index: int) -> list[float]:
        """Seconds from an open level's start to each request: Poisson, the same for every column."""
        chance = random.Random(f"{self.seed}:{index}")
        at, found = 0.0, []
        for _ in range(self.requests):
            found.append(at)
            at += chance.expovariate(self.levels[index].value)
        return [one for one in found if self.seconds is None or one <= self.seconds]


def read(
    typed: Mapping[str, str],
    message: str,
    dataset: Callable[[str], tuple[str, tuple[Prompt, ...]]] | None = None,
) -> Wanted:
    """The run that `typed` asks for; `message`: the one that the conversation shows. LoadRefused.

    `dataset`: the words for a dataset's key, and its prompts; ValueError in words.
    """
    wrong: dict[str, str] = {}

    def taken[Value](name: str, reader: Callable[[], Value], otherwise: Value) -> Value:
        try:
            return reader()
        except ValueError as problem:
            wrong[name] = str(problem)
            return otherwise

    none: tuple[Level, ...] = ()
    levels = taken("levels", lambda: read_levels(typed["levels"]), none)
    requests = taken("requests", lambda: _whole(typed["requests"], 1, REQUESTS), 1)
    seconds = taken("seconds", lambda: _limit(typed["seconds"], RUN_S), None)
    max_tokens = taken("max_tokens", lambda: _whole(typed["max_tokens"], 1, TOKENS), 1)
    warm_up = taken("warm_up", lambda: _whole(typed["warm_up"], 0, WARM_UP), 0)
    seed = taken("seed", lambda: _whole(typed["seed"], 0, 2**31 - 1), 1)
    limits: dict[str, float | None] = {}
    try:
        limits = read_limits(typed)
    except LoadRefused as refusal:
        wrong |= refusal.fields
    source = typed["source"] if typed["source"] in ("prompts", "dataset") else "message"
    prompts: tuple[Prompt, ...] = (message,)
    name = ""
    if source == "dataset" and dataset:
        name, prompts = taken("dataset", lambda: dataset(typed["dataset"]), (name, prompts))
    elif source == "prompts":
        prompts = taken("prompts", lambda: read_prompts(typed["prompts"]), prompts)
    elif not message:
        wrong["source"] = "The conversation has no message yet: write one there, or give prompts here."
    if wrong:
        raise LoadRefused(wrong)
    fixed = typed.get("fixed") == "on"
    return Wanted(levels, requests, max_tokens, prompts, seconds, warm_up, seed, fixed, limits, source, name)


def read_limits(typed: Mapping[str, str]) -> dict[str, float | None]:
    """The limits of goodput alone. LoadRefused."""
    limits: dict[str, float | None] = {}
    wrong: dict[str, str] = {}
    for name in ("ttft", "tpot", "e2e"):
        try:
            limits[name] = _limit(typed.get(name, ""), LIMIT_MS)
        except ValueError as problem:
            wrong[name] = str(problem)
    if wrong:
        raise LoadRefused(wrong)
    return limits


def read_levels(text: str) -> tuple[Level, ...]:
    """ "1, 2, 0.5/s" → levels in that order. ValueError in words."""
    parts = [part.strip() for part in re.split(r"[,;\s]+", text.replace(" /s", "/s").strip()) if part.strip()]
    if not parts:
        raise ValueError("Give at least one level, such as 1, 2, 4 or 0.5/s.")
    levels = tuple(_level(part) for part in parts)
    if len(levels) > LEVELS:
        raise ValueError(f"At most {LEVELS} levels; these are {len(levels)}.")
    if len(set(levels)) < len(levels):
        raise ValueError("A level is given twice.")
    return levels


def _level(part: str) -> Level:
    number = part.removesuffix("/s")
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", number):
        raise ValueError(
            f"{part[:20]} is no level: write 4 for four at once, 0.5/s for one every two seconds."
        )
    value = float(number)
    if part.endswith("/s"):
        if not 0.01 <= value <= A_SECOND:
            raise ValueError(f"{part}: a rate is from 0.01/s to {A_SECOND:g}/s.")
        return Level(True, value)
    if value != int(value) or not 1 <= value <= AT_ONCE:
        raise ValueError(f"{part}: a concurrency is a whole number from 1 to {AT_ONCE}.")
    return Level(False, value)


def _whole(text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
        raise ValueError(f"A whole number from {low:,} to {high:,}.")
    return int(text)


def _limit(text: str, high: float) -> float | None:
    """A number above zero, or None for an empty field."""
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,8}(\.[0-9]{1,3})?", text) or not 0 < float(text) <= high:
        raise ValueError(f"A number above 0, to {high:,.0f}; empty for none.")
    return float(text)


# Prompts


def read_prompts(text: str) -> tuple[Prompt, ...]:
    """One a line: text, {"prompt": …}, {"messages": […]}, OpenAI's batch lines. ValueError names lines."""
    if len(text.encode(errors="replace")) > BYTES:
        raise ValueError(f"At most {BYTES >> 20} MiB of prompts.")
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError("Give at least one prompt, or choose a file.")
    if len(lines) > REQUESTS:
        raise ValueError(f"At most {REQUESTS:,} prompts; these are {len(lines):,}.")
    reads = _parsed if lines[0][1].startswith("{") else str
    found, wrong = [], []
    for number, line in lines:
        try:
            found.append(reads(line))
        except (ValueError, policy.BadRequest) as problem:
            said = problem.message if isinstance(problem, policy.BadRequest) else str(problem)
            wrong.append(f"Line {number}: {ITS_PLACE.sub('column', said.replace('The body', 'it', 1))}")
    if wrong:
        more = f" And {len(wrong) - LINE_ERRORS} more." if len(wrong) > LINE_ERRORS else ""
        raise ValueError(" ".join(wrong[:LINE_ERRORS]) + more)
    return tuple(found)


def _parsed(line: str) -> Prompt:
    """The prompt of one JSON line."""
    data = policy.loads(line.encode(errors="replace"))
    body = data.get("body", data)
    if not isinstance(body, dict):
        raise ValueError("body must be an object.")
    if "messages" in body:
        policy.check({"messages": body["messages"]}, chat=True)
        messages: list[dict[str, Any]] = body["messages"]
        if not all(isinstance(message.get("content"), str) for message in messages):
            raise ValueError("only messages of plain text are asked here.")
        return messages
    if not isinstance(body.get("prompt"), str) or not body["prompt"]:
        raise ValueError('neither "prompt" with a text nor "messages".')
    return str(body["prompt"])


# How long it will take


@dataclass(frozen=True)
class Estimate:
    """Seconds: at least, and at most if the engine answers one after another. None: nothing to go by."""

    least: float | None
    most: float | None

    @property
    def too_long(self) -> bool:
        return self.least is not None and self.least > RUN_S


def estimate(wanted: Wanted, answers_s: Sequence[float | None]) -> Estimate:
    """For columns whose answers last about so long; None for a column that nothing is known of."""
    least = most = 0.0
    known = True
    for seconds in answers_s:
        for index, level in enumerate(wanted.levels):
            low, high = _level_s(wanted, index, level, seconds or 0.0)
            least, most = least + low, most + high
        known = known and seconds is not None
    return Estimate(least if least or known else None, most if known else None)


def _level_s(wanted: Wanted, index: int, level: Level, answer_s: float) -> tuple[float, float]:
    """Seconds that one level takes at least and at most, its warm-up included."""
    warm = wanted.warm_up * answer_s
    if level.open:
        arrivals = wanted.arrivals(index)
        return arrivals[-1] + answer_s, arrivals[-1] + warm + len(arrivals) * answer_s
    rounds = math.ceil(wanted.requests / level.value)
    most = wanted.requests * answer_s
    if wanted.seconds is not None:
        most = min(most, wanted.seconds + level.value * answer_s)
    return min(rounds * answer_s, most) + warm / level.value, most + warm


def loaded(typed: Mapping[str, str], file: bytes | None) -> dict[str, str]:
    """What was typed, with a file's text in the place of the prompts. LoadRefused where it is no text."""
    if file is None:
        return dict(typed)
    try:
        return {**typed, "source": "prompts", "prompts": file.decode("utf-8-sig").replace("\r\n", "\n")}
    except UnicodeDecodeError as problem:
        raise LoadRefused({"prompts": "The file is no UTF-8 text."}) from problem
