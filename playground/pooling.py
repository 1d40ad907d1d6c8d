"""What a request to embed, rank, score or classify may contain, for the playground and the gateway. Pure.

Unlike generating routes these take only the parameters listed here: engines read pictures, templates and
remote files from fields of the same requests, by names that differ between versions.
"""

from collections.abc import Callable, Mapping
from typing import Any

from playground.schemas import BadRequest

Check = Callable[[Any, str], None]

INPUTS = 2048
CHARACTERS = 4_000_000
TOKENS = 300_000


def check(body: Mapping[str, Any], kind: str) -> None:
    """Raise BadRequest, naming the parameter, for the first thing that is not allowed."""
    checks, needed = KINDS[kind]
    for name, value in body.items():
        if name == "model":
            continue
        if name not in checks:
            raise BadRequest(f"{name[:80]} is not accepted here.", name[:80], "unsupported_parameter")
        if value is not None:
            checks[name](value, name)
    for names in needed:
        if not any(body.get(name) is not None for name in names):
            raise BadRequest(f"{names[0]} is missing.", names[0], "missing_required_parameter")


def _text(value: Any, name: str) -> None:
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name} must be a string that is not empty.", name, "invalid_type")
    _bounded([value], name)


def _texts(value: Any, name: str) -> None:
    """A string, or strings."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or any(not isinstance(text, str) for text in texts):
        raise BadRequest(f"{name} must be a string or a list of strings.", name, "invalid_type")
    if not 0 < len(texts) <= INPUTS or not all(texts):
        raise BadRequest(f"{name} takes 1 to {INPUTS} strings, none empty.", name, "invalid_value")
    _bounded(texts, name)


def _bounded(texts: list[str], name: str) -> None:
    if sum(map(len, texts)) > CHARACTERS:
        raise BadRequest(f"{name} has more than {CHARACTERS:,} characters.", name, "invalid_value")


def _input(value: Any, name: str) -> None:
    """Text or texts, token ids or lists of them."""
    if isinstance(value, list) and value and not isinstance(value[0], str):
        _token_ids(value, name)
    else:
        _texts(value, name)


def _token_ids(value: list[Any], name: str) -> None:
    lists = value if isinstance(value[0], list) else [value]
    if len(lists) > INPUTS or any(not isinstance(ids, list) or not ids for ids in lists):
        raise BadRequest(f"{name} takes 1 to {INPUTS} lists of token ids.", name, "invalid_value")
    if sum(map(len, lists)) > TOKENS:
        raise BadRequest(f"{name} has more than {TOKENS:,} token ids.", name, "invalid_value")
    if any(type(token) is not int or not 0 <= token < 2**31 for ids in lists for token in ids):
        raise BadRequest(f"{name} takes token ids of 0 and more.", name, "invalid_value")


def _whole(low: int, high: int) -> Check:
    def rule(value: Any, name: str) -> None:
        if type(value) is not int or not low <= value <= high:
            raise BadRequest(f"{name} must be a whole number from {low} to {high}.", name, "invalid_value")

    return rule


def _one_of(*words: str) -> Check:
    def rule(value: Any, name: str) -> None:
        if value not in words:
            raise BadRequest(f"{name} must be {' or '.join(words)}.", name, "invalid_value")

    return rule


def _boolean(value: Any, name: str) -> None:
    if type(value) is not bool:
        raise BadRequest(f"{name} must be true or false.", name, "invalid_type")


def _user(value: Any, name: str) -> None:
    if not isinstance(value, str) or len(value) > 512:
        raise BadRequest(f"{name} must be a string of at most 512 characters.", name, "invalid_value")


_COMMON: dict[str, Check] = {
    "truncate_prompt_tokens": _whole(-1, 10_000_000),
    "truncation_side": _one_of("left", "right"),
    "use_activation": _boolean,
    "user": _user,
}
_PAIRS = _COMMON | {
    "max_tokens_per_doc": _whole(0, 10_000_000),
    "max_tokens_per_query": _whole(0, 10_000_000),
}
_EMBEDDING = _COMMON | {
    "add_special_tokens": _boolean,
    "dimensions": _whole(1, 65_536),
    "encoding_format": _one_of("float", "base64"),
    "input": _input,
}
_RERANK = _PAIRS | {
    "documents": _texts,
    "query": _text,
    "return_documents": _boolean,
    "top_n": _whole(0, INPUTS),
}
_SCORE = _PAIRS | dict.fromkeys(("documents", "items", "queries", "text_1", "text_2"), _texts)
_CLASSIFICATION = _COMMON | {"add_special_tokens": _boolean, "input": _input}

# Of each kind: its parameters, and those of which one must be there.
KINDS: Mapping[str, tuple[Mapping[str, Check], tuple[tuple[str, ...], ...]]] = {
    "embedding": (_EMBEDDING, (("input",),)),
    "rerank": (_RERANK, (("query",), ("documents",))),
    "score": (_SCORE, (("text_1", "queries"), ("text_2", "documents", "items"))),
    "classification": (_CLASSIFICATION, (("input",),)),
}
