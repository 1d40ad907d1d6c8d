"""What scores a row: a scorer's settings, and what those say that need no engine. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from playground import score_fit, score_json, score_judge, score_patterns, score_schemas, score_texts
from playground.schemas import BadRequest

KINDS: Mapping[str, str] = {
    "exact": "Exact match",
    "contains": "Contains",
    "regex": "Regular expression",
    "number": "Number",
    "schema": "JSON schema",
    "similarity": "Similarity of meaning",
    "judge": "Judge model",
}
# Who answers by an engine, and of which task its model is.
ENGINES: Mapping[str, str] = {"similarity": "embedding", "judge": "chat"}
AGAINST = ("expected", "cell", "fixed")
PICKS = ("last", "first", "only")
CHARACTERS = 20_000
TOKENS = 8192


class BadScorer(Exception):
    """These settings make no scorer: `fields` has a sentence by setting."""

    def __init__(self, wrong: Mapping[str, str]) -> None:
        super().__init__(" ".join(wrong.values()))
        self.fields = dict(wrong)


@dataclass(frozen=True)
class Score:
    """0…1 and, unless it is plain, why; None where nothing can be said. `dear`: it took too long to say."""

    value: float | None
    why: str = ""
    dear: bool = False


@dataclass(frozen=True)
class Scorer:
    """One scorer of a batch. It never changes once it is added, so that a row's score stays what it was.

    `against`: the row's expected answer, a cell of its table, or what is `fixed`: a text, an expression, a
    schema. `cell`, `deployment`, `least` and the others count where the kind uses them.
    """

    kind: str
    name: str = ""
    against: str = "expected"
    cell: str = ""
    fixed: str = ""
    case: bool = False
    space: bool = False
    punctuation: bool = False
    whole: bool = False
    pick: str = "last"
    absolute: str = "0"
    relative: str = "0"
    fenced: bool = True
    deployment: int | None = None
    served: str = ""
    least: float | None = None
    prompt: str = ""
    max_tokens: int = 512
    removed: bool = False

    @property
    def title(self) -> str:
        return self.name or KINDS[self.kind]

    @property
    def task(self) -> str:
        """That of the model it asks; "" for those that ask none."""
        return ENGINES.get(self.kind, "")

    def wanted(self, expected: str | None, cells: Mapping[str, Any]) -> str | None:
        """What a row's right answer is measured by; None where the row does not tell."""
        if self.against == "fixed":
            return self.fixed
        if self.against == "cell":
            return None if cells.get(self.cell) is None else str(cells[self.cell])
        return expected

    @property
    def needs_expected(self) -> bool:
        """Whether a row that does not tell its right answer cannot be scored."""
        return self.kind != "judge" or score_judge.wants_expected(self.prompt)

    def kept(self) -> dict[str, Any]:
        """For the batch's row: only what is not as it usually is."""
        usual = {one.name: one.default for one in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != usual[name]}


def made(kept: Mapping[str, Any]) -> Scorer:
    """The scorer of a batch's row, written by whichever version of this; unknown settings are dropped."""
    names = {one.name for one in fields(Scorer)}
    return Scorer(**{name: value for name, value in kept.items() if name in names})


def check(scorer: Scorer) -> None:
    """Raise BadScorer for settings that cannot score; each wrong one has its sentence."""
    wrong: dict[str, str] = {}
    if scorer.kind not in KINDS:
        raise BadScorer({"kind": "Choose how rows are scored."})
    if scorer.against not in AGAINST:
        wrong["against"] = "Choose what answers are measured by."
    if len(scorer.name) > 60 or (len(scorer.fixed) > CHARACTERS and scorer.kind != "schema"):
        wrong["name" if len(scorer.name) > 60 else "fixed"] = "This is too long."
    if scorer.against == "cell" and not scorer.cell:
        wrong["cell"] = "Choose the column with the right answers."
    if "\x00" in scorer.fixed + scorer.name + scorer.cell:
        wrong["fixed"] = "A NUL character cannot be kept."
    wrong |= {name: why for name, why in CHECKS[scorer.kind](scorer).items() if name not in wrong}
    if wrong:
        raise BadScorer(wrong)


def _check_text(scorer: Scorer) -> dict[str, str]:
    if scorer.against != "fixed":
        return {}
    shown = _alike(scorer, scorer.fixed)
    return {} if shown.strip() else {"fixed": "Write the text that answers are compared with."}


def _check_regex(scorer: Scorer) -> dict[str, str]:
    if scorer.against != "fixed":
        return {}
    if not scorer.fixed:
        return {"fixed": "Write the expression."}
    try:
        score_patterns.check(scorer.fixed)
    except BadRequest as problem:
        return {"fixed": problem.message}
    return {}


def _check_number(scorer: Scorer) -> dict[str, str]:
    wrong = {
        name: "A number from 0 on."
        for name in ("absolute", "relative")
        if _tolerance(getattr(scorer, name)) is None
    }
    if scorer.pick not in PICKS:
        wrong["pick"] = "The last number, the first, or the only one."
    if scorer.against == "fixed" and len(score_texts.numbers(scorer.fixed)) != 1:
        wrong["fixed"] = "Write one number."
    return wrong


def _check_schema(scorer: Scorer) -> dict[str, str]:
    if scorer.against != "fixed":
        return {"against": "One schema for all rows: write it below."}
    if not scorer.fixed.strip():
        return {"fixed": "Write the schema."}
    try:
        score_schemas.read_schema(scorer.fixed)
    except BadRequest as problem:
        return {"fixed": problem.message}
    return {}


def _check_similarity(scorer: Scorer) -> dict[str, str]:
    wrong = _check_text(scorer)
    if scorer.deployment is None:
        wrong["deployment"] = "Choose the model that embeds."
    if scorer.least is not None and not 0 < scorer.least <= 1:
        wrong["least"] = "From 0 to 1; empty for the cosine itself."
    return wrong


def _check_judge(scorer: Scorer) -> dict[str, str]:
    wrong = {}
    if scorer.deployment is None:
        wrong["deployment"] = "Choose the model that judges."
    if not 1 <= scorer.max_tokens <= TOKENS:
        wrong["max_tokens"] = f"From 1 to {TOKENS}."
    if scorer.against == "fixed" and not scorer.fixed.strip():
        wrong["fixed"] = "Write the right answer of all rows, or choose another."
    try:
        score_judge.check(scorer.prompt)
    except score_judge.BadPrompt as problem:
        wrong["prompt"] = str(problem)
    return wrong


CHECKS: Mapping[str, Callable[[Scorer], dict[str, str]]] = {
    "exact": _check_text,
    "contains": _check_text,
    "regex": _check_regex,
    "number": _check_number,
    "schema": _check_schema,
    "similarity": _check_similarity,
    "judge": _check_judge,
}


# Scoring what needs no engine


def score(scorer: Scorer, answer: str, wanted: str) -> Score:
    """What a scorer without an engine says of one answer."""
    return SCORES[scorer.kind](scorer, answer, wanted)


def _alike(scorer: Scorer, text: str) -> str:
    return score_texts.alike(text, case=scorer.case, space=scorer.space, punctuation=scorer.punctuation)


def _exact(scorer: Scorer, answer: str, wanted: str) -> Score:
    right = _alike(scorer, wanted)
    if wanted and not right:
        return Score(None, "Nothing is left of the expected answer once it is made comparable.")
    return Score(float(_alike(scorer, answer) == right))


def _contains(scorer: Scorer, answer: str, wanted: str) -> Score:
    right, said = _alike(scorer, wanted), _alike(scorer, answer)
    if not right.strip():
        return Score(None, "The expected answer is empty: every text contains it.")
    return Score(float(score_texts.has_word(said, right) if scorer.whole else right in said))


def _regex(scorer: Scorer, answer: str, wanted: str) -> Score:
    if not wanted:
        return Score(None, "The expression is empty: every text matches it.")
    try:
        found = score_patterns.found(wanted, answer, ignore_case=scorer.case, whole=scorer.whole)
    except BadRequest as problem:
        return Score(None, problem.message)
    except score_patterns.TooDear as problem:
        return Score(None, str(problem), dear=True)
    return Score(float(found))


def _number(scorer: Scorer, answer: str, wanted: str) -> Score:
    right = score_texts.numbers(wanted)
    if len(right) != 1:
        return Score(None, f"The expected answer holds {len(right) or 'no'} number{'s' * bool(right)}.")
    said = score_texts.numbers(answer)
    if not said:
        return Score(0.0, "No number in the answer.")
    if scorer.pick == "only" and len(said) > 1:
        return Score(0.0, f"{len(said)} numbers in the answer.")
    value = said[-1 if scorer.pick == "last" else 0]
    absolute, relative = _tolerance(scorer.absolute), _tolerance(scorer.relative)
    assert absolute is not None and relative is not None
    near = abs(value - right[0]) <= max(absolute, relative * abs(right[0]))
    return Score(float(near), "" if near else f"{_short(value)} instead of {_short(right[0])}.")


def _tolerance(text: str) -> Decimal | None:
    try:
        value = Decimal(text.strip() or "0")
    except InvalidOperation:
        return None
    return value if value.is_finite() and 0 <= value < Decimal("1e300") else None


def _short(value: Decimal) -> str:
    return f"{value:.12g}"


def _schema(scorer: Scorer, answer: str, wanted: str) -> Score:
    schema = _read_schema(wanted)
    try:
        fault = score_fit.fault(schema, score_json.read(answer, fenced=scorer.fenced))
    except score_json.NotJson as problem:
        return Score(0.0, f"Not JSON: {problem}")
    except (score_fit.TooDear, score_patterns.TooDear) as problem:
        return Score(None, str(problem), dear=True)
    return Score(0.0, f"{fault[:200]}.") if fault else Score(1.0)


@lru_cache(maxsize=16)
def _read_schema(text: str) -> Any:
    return score_schemas.read_schema(text)


SCORES: Mapping[str, Callable[[Scorer, str, str], Score]] = {
    "exact": _exact,
    "contains": _contains,
    "regex": _regex,
    "number": _number,
    "schema": _schema,
}
