"""The form of a scorer: what was typed and sent made into a Scorer, each error by its field."""

from collections.abc import Mapping

from playground import score_judge, scorers
from playground.scorers import BadScorer, Scorer

TEXTS: Mapping[str, str] = {
    "kind": "exact",
    "name": "",
    "against": "expected",
    "cell": "",
    "fixed": "",
    "schema": "",
    "pick": "last",
    "absolute": "0",
    "relative": "0",
    "embedder": "",
    "judge": "",
    "least": "",
    "prompt": score_judge.PROMPT,
    "max_tokens": "512",
}
# Boxes, and which are ticked at first.
BOXES: Mapping[str, bool] = {
    "case": False,
    "space": True,
    "punctuation": False,
    "whole": False,
    "fenced": True,
}
# Where a kind's settings are typed, if not in the field of their name.
FIELDS: Mapping[str, Mapping[str, str]] = {
    "schema": {"fixed": "schema", "against": "schema"},
    "similarity": {"deployment": "embedder"},
    "judge": {"deployment": "judge"},
}


def typed(posted: Mapping[str, str] | None, against: str = "expected") -> dict[str, str | bool]:
    """The form as it stands, to be shown again; None is its beginning, measured by `against`."""
    if posted is None:
        return {**TEXTS, "against": against, **BOXES}
    texts = {name: posted.get(name, usual).replace("\r\n", "\n") for name, usual in TEXTS.items()}
    return {**texts, **{name: name in posted for name in BOXES}}


def read(form: Mapping[str, str | bool]) -> Scorer:
    """The scorer of a form, checked. BadScorer names the form's fields."""
    kind = str(form["kind"])
    wrong: dict[str, str] = {}
    scorer = Scorer(
        kind,
        name=str(form["name"]).strip(),
        against="fixed" if kind == "schema" else str(form["against"]),
        cell=str(form["cell"]) if form["against"] == "cell" else "",
        fixed=_fixed(form),
        case=bool(form["case"]),
        space=bool(form["space"]),
        punctuation=bool(form["punctuation"]),
        whole=bool(form["whole"]),
        fenced=bool(form["fenced"]),
        pick=str(form["pick"]),
        absolute=str(form["absolute"]).strip(),
        relative=str(form["relative"]).strip(),
        deployment=_whole(str(form.get({"similarity": "embedder"}.get(kind, "judge"), ""))),
        least=_share(str(form["least"]), wrong) if kind == "similarity" else None,
        prompt=str(form["prompt"]) if kind == "judge" else "",
        max_tokens=_whole(str(form["max_tokens"])) or 0,
    )
    try:
        scorers.check(_only(scorer))
    except BadScorer as problem:
        wrong = problem.fields | wrong
    if wrong:
        places = FIELDS.get(kind, {})
        raise BadScorer({places.get(name, name): why for name, why in wrong.items()})
    return _only(scorer)


# What each kind goes by; the others' settings stay at their usual.
USES: Mapping[str, frozenset[str]] = {
    "exact": frozenset({"case", "space", "punctuation"}),
    "contains": frozenset({"case", "space", "punctuation", "whole"}),
    "regex": frozenset({"case", "whole"}),
    "number": frozenset({"pick", "absolute", "relative"}),
    "schema": frozenset({"fenced"}),
    "similarity": frozenset({"deployment", "least"}),
    "judge": frozenset({"deployment", "prompt", "max_tokens"}),
}
ALL = frozenset({"name", "against", "cell", "fixed"})


def _only(scorer: Scorer) -> Scorer:
    used = ALL | USES.get(scorer.kind, frozenset())
    return Scorer(scorer.kind, **{name: getattr(scorer, name) for name in used})


def _fixed(form: Mapping[str, str | bool]) -> str:
    if form["kind"] == "schema":
        return str(form["schema"])
    return str(form["fixed"]) if form["against"] == "fixed" else ""


def _whole(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else None


def _share(text: str, wrong: dict[str, str]) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        wrong["least"] = "From 0 to 1; empty for the cosine itself."
        return None
