"""The form of a noise run: what was typed and sent made into what is wanted, each error by its field."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from django.core.files.uploadedfile import UploadedFile

from playground import dataset_prompts, noise
from playground.figures import figures
from playground.models import Column, Generation, Team
from playground.noise import Wanted

BYTES = 4 << 20
CHARACTERS = 20_000
# One prompt needs its rounds as pairs; many prompts are pairs themselves.
ROUNDS_ONLY, ROUNDS = 12, 1
ERRORS = 5


class BadForm(Exception):
    """What cannot be: `fields` has a sentence by field."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(" ".join(fields.values()))
        self.fields = dict(fields)


@dataclass
class Typed:
    """The form as it stands, to be shown again."""

    what: str = "list"
    prompts: str = ""
    dataset: str = ""
    rounds: str = ""
    at_once: str = "1"
    cache: str = "warm"
    max_tokens: str = "64"
    errors: dict[str, str] = field(default_factory=dict)


def typed(posted: Mapping[str, str], said: str) -> Typed:
    """What was posted; nothing yet is the form's own beginning, with this prompt where there is one."""
    begun = Typed(what="only" if said else "list")
    names = ("what", "prompts", "dataset", "rounds", "at_once", "cache", "max_tokens")
    for name in names:
        if name in posted:
            setattr(begun, name, posted[name].strip() if name != "prompts" else posted[name])
    return begun


def again(settings: Mapping[str, Any], said: str) -> Typed:
    """The form that asks for a run once more."""
    what = "only" if settings["only"] and said else "list"
    prompts = "" if settings["only"] else "\n".join(line(prompt) for prompt in settings["prompts"])
    rounds, at_once, tokens = (str(settings[name]) for name in ("rounds", "at_once", "max_tokens"))
    return Typed(what, prompts, "", rounds, at_once, settings["cache"], tokens)


def line(prompt: str) -> str:
    """A prompt as `parse` reads it back."""
    plain = "\n" not in prompt and _of_json(prompt) is None and prompt == prompt.strip()
    return prompt if plain else json.dumps({"prompt": prompt}, ensure_ascii=False)


def read(form: Typed, file: UploadedFile | None, said: str, team: Team | None = None) -> Wanted:
    """What is wanted. `said`: the conversation's last message; `team`: whose datasets may be chosen.

    BadForm names every field that is wrong.
    """
    wrong: dict[str, str] = {}
    only = form.what == "only"
    prompts, dataset = _prompts(form, file, said, wrong), ""
    if form.what == "dataset" and team:
        prompts, dataset = _of_dataset(team, form.dataset, wrong)
    usual = str(ROUNDS_ONLY if only or len(prompts) == 1 else ROUNDS)
    wanted = Wanted(
        tuple(prompts),
        _count(form.rounds or usual, "rounds", noise.ROUNDS, wrong),
        _count(form.at_once, "at_once", noise.AT_ONCE, wrong),
        form.cache,
        _count(form.max_tokens, "max_tokens", noise.TOKENS, wrong),
        only,
        dataset,
    )
    if form.cache not in noise.CACHES:
        wrong["cache"] = "Warm or cold."
    if wrong:
        raise BadForm(wrong)
    return wanted


def _prompts(form: Typed, file: UploadedFile | None, said: str, wrong: dict[str, str]) -> list[str]:
    if form.what == "only":
        if not said:
            wrong["what"] = "Nothing was asked in this conversation yet: type prompts instead."
        return [said]
    if form.what == "dataset":
        return []
    try:
        return _sent(file) if file else parse(form.prompts)
    except BadForm as problem:
        wrong |= {"file" if file else name: why for name, why in problem.fields.items()}
        return []


def _of_dataset(team: Team, key: str, wrong: dict[str, str]) -> tuple[list[str], str]:
    """Its prompts, and how it is called."""
    try:
        found = dataset_prompts.given(team, key, noise.PROMPTS, single=True)
    except ValueError as problem:
        wrong["dataset"] = str(problem)
        return [], ""
    prompts = [str(prompt) for prompt in found.prompts]
    for prompt in prompts:
        if why := _why_not(prompt, {}):
            wrong["dataset"] = f"A row of it {why}"
    return prompts, found.name


def _sent(file: UploadedFile) -> list[str]:
    if (file.size or 0) > BYTES:
        raise BadForm({"prompts": f"The file is larger than {BYTES >> 20} MiB."})
    try:
        return parse(file.read().decode("utf-8-sig"), lines_of_json=True)
    except UnicodeDecodeError as problem:
        raise BadForm({"prompts": "The file is not text in UTF-8."}) from problem


def parse(text: str, *, lines_of_json: bool = False) -> list[str]:
    """One prompt a line, empty ones left out: as it stands, or {"prompt": "…"}. BadForm names wrong lines."""
    found: dict[str, int] = {}
    wrong = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        prompt = _of_json(line) or (None if lines_of_json else line.strip())
        if why := _why_not(prompt, found):
            wrong.append(f"Line {number} {why}")
        elif prompt is not None:
            found[prompt] = number
    if wrong:
        more = [f"And {len(wrong) - ERRORS} more."] if len(wrong) > ERRORS else []
        raise BadForm({"prompts": " ".join([*wrong[:ERRORS], *more])})
    if not 1 <= len(found) <= noise.PROMPTS:
        many = f"{len(found)} prompts; {noise.PROMPTS} is the most." if found else "Give at least one prompt."
        raise BadForm({"prompts": many})
    return list(found)


def _why_not(prompt: str | None, found: Mapping[str, int]) -> str:
    """What is wrong with it; `found` has the lines of those before."""
    if prompt is None:
        return 'is not {"prompt": "…"}.'
    if len(prompt) > CHARACTERS:
        return f"has {len(prompt):,} characters; {CHARACTERS:,} is the most."
    if prompt in found:
        # Pairs are prompts: one that counts twice would feign certainty.
        return f"repeats line {found[prompt]}: choose more rounds instead."
    return ""


def _of_json(line: str) -> str | None:
    try:
        read = json.loads(line)
    except ValueError:
        return None
    prompt = read.get("prompt") if isinstance(read, dict) else None
    return prompt if isinstance(prompt, str) and prompt.strip() else None


def _count(text: str, name: str, most: int, wrong: dict[str, str]) -> int:
    if text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most:
        return int(text)
    wrong[name] = f"A whole number from 1 to {most:,}."
    return 1


# How long it will take


def estimate(columns: list[Column], wanted: Wanted) -> float | None:
    """Seconds, by the columns' earlier answers; None where one of them has none with figures."""
    each = [_answer_ms(column, wanted.max_tokens) for column in columns]
    known = [ms for ms in each if ms is not None]
    if len(known) < len(each) or not each:
        return None
    turns = -(-len(wanted.prompts) * wanted.rounds // wanted.at_once)
    return 2 * turns * sum(known) / 1000


def _answer_ms(column: Column, tokens: int) -> float | None:
    """Median of its last answers', cut to so many tokens; the untimed request of a warm cache is left out."""
    rows = Generation.objects.filter(
        column__deployment=column.deployment_id, state=Generation.State.COMPLETE
    ).defer("vectors", "pace", "request", "effective")
    times = [_cut(row, tokens) for row in rows.order_by("-pk")[:20]]
    there = [ms for ms in times if ms is not None]
    return median(there) if there else None


def _cut(row: Generation, tokens: int) -> float | None:
    known = figures(row)
    if known.e2e is None or known.ttft is None or known.tpot is None:
        return known.e2e
    return min(known.e2e, known.ttft + known.tpot * (tokens - 1))


def shown(wanted: Wanted, columns: list[Column]) -> dict[str, Any]:
    """What the form says of a run before it starts."""
    return {
        "requests": wanted.requests(len(columns)),
        "pairs": wanted.pairs,
        "seconds": estimate(columns, wanted),
    }
