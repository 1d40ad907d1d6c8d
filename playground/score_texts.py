"""Texts and numbers as scorers compare them: made alike where chosen, read out of sentences. Pure."""

import re
import unicodedata
from decimal import Decimal, InvalidOperation

# What stands between groups of three digits, beside the comma: spaces that do not break, and marks.
_GROUPING = re.compile("(?<=\\d)[\u00a0\u202f\u2009'\u2019_](?=\\d{3}(?!\\d))")
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)\]])[-+\u2212\u2013]\s?)?"
    r"(?:(?<!\d[.,])(?P<grouped>[1-9]\d{0,2}(?:(?:,\d{3})+|(?:[ ]\d{3})+)(?!\d|,\d)(?:\.\d+)?)"
    r"|(?<!\d[.,])(?P<dotted>[1-9]\d{0,2}(?:\.\d{3})+,\d+(?!\d|,\d)|[1-9]\d{0,2}(?:\.\d{3}){2,}(?!\d|\.\d))"
    r"|(?<!\d[.,])(?P<comma>\d+,\d+(?!\d|,\d))"
    r"|(?<![/\u2044])(?P<fraction>\d+\s?[/\u2044]\s?[1-9]\d*(?!\s?[/\u2044\d.,]\d))"
    r"|(?P<plain>(?:(?<!\d\.)\d+(?:\.\d+)?|(?<!\d)\.\d+)(?:[eE][-+]?\d{1,3}(?!\d))?))"
    r"(?:\s?(?P<scale>hundred|thousand|million|billion|trillion)\b)?",
    re.IGNORECASE,
)
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
)
_DECADES = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS = {word: value for value, word in enumerate(_SMALL.split())}
_TENS = {word: 10 * value for value, word in enumerate(_DECADES.split(), 2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORD = "|".join([*_UNITS, *_TENS, *_SCALES, "hundred"])
_WORDS = re.compile(
    rf"\b(?:(?P<minus>minus|negative)\s+)?(?P<whole>(?:{_WORD})(?:(?:\s+and\s+|[\s-]+)(?:{_WORD}))*)"
    rf"(?P<point>\s+point(?:\s+(?:{'|'.join(list(_UNITS)[:10])}))+)?\b",
    re.IGNORECASE,
)


def alike(text: str, *, case: bool, space: bool, punctuation: bool) -> str:
    """The text as it is compared. `case`, `space`, `punctuation`: which of them makes no difference.

    Characters that look the same are the same wherever anything is ignored (NFKC).
    """
    if case or space or punctuation:
        text = unicodedata.normalize("NFKC", text)
    if punctuation:
        text = "".join(mark for mark in text if not unicodedata.category(mark).startswith("P"))
    if case:
        # Once more: folding can take composed characters apart.
        text = unicodedata.normalize("NFKC", text.casefold())
    return " ".join(text.split()) if space else text


def has_word(text: str, word: str) -> bool:
    """Whether `word`, which may be several, stands in `text` and is no part of a longer one."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def numbers(text: str) -> list[Decimal]:
    """The numbers in a text, in order. Those in words count only where none is in digits.

    1,234, 1 234 and 1.234.567 are grouped; 1,5 and 0,125 have a decimal comma; percent signs change nothing.
    """
    plain = unicodedata.normalize("NFKC", _GROUPING.sub("", text))
    found = [value for match in _NUMBER.finditer(plain) if (value := _of_digits(match)) is not None]
    return found or [value for match in _WORDS.finditer(plain) for value in _of_words(match)]


def _of_digits(match: re.Match[str]) -> Decimal | None:
    """None of what is not finite."""
    parts = match.groupdict()
    try:
        if fraction := parts["fraction"]:
            above, below = re.split("[/\u2044]", fraction)
            value = Decimal(above.strip()) / Decimal(below.strip())
        elif parts["grouped"]:
            value = Decimal(re.sub("[, ]", "", parts["grouped"]))
        elif parts["dotted"]:
            value = Decimal(parts["dotted"].replace(".", "").replace(",", "."))
        else:
            value = Decimal((parts["comma"] or parts["plain"]).replace(",", "."))
    except InvalidOperation:
        return None
    value *= {"hundred": 100, **_SCALES}.get((parts["scale"] or "").lower(), 1)
    return -value if (parts["sign"] or "").strip() in ("-", "\u2212", "\u2013") else value


def _of_words(match: re.Match[str]) -> list[Decimal]:
    """What the words say: several numbers where one word cannot go on another, as in "one two"."""
    found: list[int] = []
    total = current = 0
    room = 0  # Below which value the next unit or ten must be to go on.
    begun = False
    for word in re.split(r"[\s-]+", match["whole"].lower()):
        if word == "and":
            continue
        if word == "hundred":
            current, room = max(current, 1) * 100, 100
        elif word in _SCALES:
            total, current, room = total + max(current, 1) * _SCALES[word], 0, 1000
        else:
            value = _UNITS.get(word, _TENS.get(word, 0))
            if begun and (value >= room or value == 0):
                found.append(total + current)
                total = current = 0
            current += value
            room = 10 if word in _TENS else 0
        begun = True
    values = [Decimal(value) for value in (*found, total + current)]
    if match["point"]:
        digits = "".join(str(_UNITS[word]) for word in match["point"].lower().split()[1:])
        values[-1] += Decimal(f"0.{digits}")
    if match["minus"]:
        values[0] = -values[0]
    return values
