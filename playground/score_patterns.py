"""Regular expressions that people write, run over texts that models wrote: bounded in time. Pure."""

import re
from functools import lru_cache

import regex

from playground import schemas

SECONDS = 0.1
# Curly brackets that no count is in: `re` takes them as they are, `regex` as how nearly a text may match.
_BRACE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(?!\d+(?:,\d*)?\}|,\d+\})", re.DOTALL)


class TooDear(Exception):
    """The expression took too long on this text; the text says so."""


def check(pattern: str) -> None:
    """Raise BadRequest for what is no expression, or one that is dear by its form alone."""
    schemas.check_pattern(pattern, "the expression")
    _compiled(pattern, False)


def found(pattern: str, text: str, *, ignore_case: bool = False, whole: bool = False) -> bool:
    """Whether the expression is found in the text, or matches all of it. BadRequest, TooDear."""
    schemas.check_pattern(pattern, "the expression")
    compiled = _compiled(pattern, ignore_case)
    try:
        # Other threads go on meanwhile: one of them renews the job's lease.
        look = compiled.fullmatch if whole else compiled.search
        return look(text, timeout=SECONDS, concurrent=True) is not None
    except TimeoutError as problem:
        raise TooDear(f"The expression took more than {SECONDS:g} s on this text.") from problem


@lru_cache(maxsize=256)
def _compiled(pattern: str, ignore_case: bool) -> regex.Pattern[str]:
    literal = _BRACE.sub(lambda match: r"\{" if match[0] == "{" else match[0], pattern)
    try:
        return regex.compile(literal, regex.VERSION0 | (regex.IGNORECASE if ignore_case else 0))
    except (regex.error, RecursionError, OverflowError) as problem:
        message = f"The expression is none that is understood here: {problem}."
        raise schemas.BadRequest(message, "the expression", "invalid_pattern") from problem
