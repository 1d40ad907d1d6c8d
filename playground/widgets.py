"""What is asked where nothing is generated, and what people see of the answer: vectors, ranks, labels. Pure.

A message of these tasks holds one text a line, and a rerank's query lies in its `inputs`. An answer becomes
a small result for the page, and an embedding's vectors, kept whole as float32.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from playground.kinds import CLASSIFICATION, COMPLETION, EMBEDDING, RERANK

TEXTS = 32
QUERY = 10_000
FIRST = 6
LARGEST = 3.4028234e38
LABELS = 10

# What the page calls things, by task.
WORDS: Mapping[str, Mapping[str, str]] = {
    "chat": {"label": "Message", "placeholder": "Message…", "verb": "Send", "empty": "Type a message first."},
    COMPLETION: {
        "label": "Text to continue",
        "placeholder": "Text to continue, as it is: no template is put around it…",
        "verb": "Continue",
        "empty": "Type the text to continue first.",
    },
    EMBEDDING: {
        "label": "Texts, one a line",
        "placeholder": "Texts to embed, one a line…",
        "verb": "Embed",
        "empty": "Type at least one text first.",
    },
    RERANK: {
        "label": "Documents, one a line",
        "placeholder": "Documents to rank, one a line…",
        "verb": "Rank",
        "empty": "Type at least one document first.",
    },
    CLASSIFICATION: {
        "label": "Texts, one a line",
        "placeholder": "Texts to classify, one a line…",
        "verb": "Classify",
        "empty": "Type at least one text first.",
    },
}
GENERATES = frozenset({"chat", COMPLETION})


class Unfit(Exception):
    """What was typed cannot be asked; the text says why."""


class Malformed(Exception):
    """The engine's answer is not what was asked for; the text says what is wrong with it."""


def texts(text: str) -> list[str]:
    """One a line, without empty ones."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def check(task: str, text: str, inputs: Mapping[str, Any]) -> None:
    """Raise Unfit where what was typed is too much, or lacks a part."""
    if task in GENERATES:
        return
    if len(found := texts(text)) > TEXTS:
        raise Unfit(f"These are {len(found)} texts; {TEXTS} at a time is the most that is shown here.")
    if task != RERANK:
        return
    query = str(inputs.get("query", ""))
    if not query.strip():
        raise Unfit("Type the query that the documents are ranked by.")
    if len(query) > QUERY:
        raise Unfit(f"The query has {len(query):,} characters; {QUERY:,} is the most.")


def asked(task: str, text: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the request that was typed."""
    if task == COMPLETION:
        return {"prompt": text}
    if task == RERANK:
        return {"query": inputs["query"], "documents": texts(text)}
    return {"input": texts(text)}


def read(
    task: str, asked: Mapping[str, Any], answer: Mapping[str, Any], labels: Sequence[str] = ()
) -> tuple[dict[str, Any], bytes | None]:
    """(result, vectors) of an engine's answer. Malformed where it does not fit what was asked."""
    if task == EMBEDDING:
        return _embedding(len(asked["input"]), answer)
    if task == RERANK:
        return _rerank(len(asked["documents"]), answer), None
    return _classification(len(asked["input"]), answer, labels), None


# Embedding: {"dimension", "norms": […], "first": [[…], …], "similarity": [[…], …]}


def _embedding(count: int, answer: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    vectors = [_numbers(row.get("embedding")) for row in _rows(answer.get("data"), count)]
    if len({len(vector) for vector in vectors}) != 1:
        raise Malformed("The engine sent vectors of different lengths.")
    norms = [math.hypot(*vector) for vector in vectors]
    result = {
        "dimension": len(vectors[0]),
        "norms": [round(norm, 6) for norm in norms],
        "first": [[round(value, 6) for value in vector[:FIRST]] for vector in vectors],
        "similarity": [
            [_cosine(a, b, x, y) for b, y in zip(vectors, norms, strict=True)]
            for a, x in zip(vectors, norms, strict=True)
        ],
    }
    return result, b"".join(array("f", vector).tobytes() for vector in vectors)


def _cosine(a: list[float], b: list[float], x: float, y: float) -> float | None:
    """Of two vectors and their norms; None where one has no direction."""
    return round(max(-1.0, min(1.0, math.sumprod(a, b) / (x * y))), 4) if x and y else None


def vector(vectors: bytes, dimension: int, place: int) -> list[float]:
    """One of the vectors that were kept, as short as float32 can be written."""
    values = array("f")
    values.frombytes(vectors[place * dimension * 4 : (place + 1) * dimension * 4])
    return [float(f"{value:.9g}") for value in values]


# Rerank: {"ranks": [[place of the document, score], …]}, best first


def _rerank(count: int, answer: Mapping[str, Any]) -> dict[str, Any]:
    scores = [_number(row.get("relevance_score")) for row in _rows(answer.get("results"), count)]
    order = sorted(range(count), key=lambda place: -scores[place])
    return {"ranks": [[place, round(scores[place], 6)] for place in order]}


# Classification: {"texts": [{"label", "scores": [[label, share], …], "more": how many are left out}, …]}


def _classification(count: int, answer: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    rows = _rows(answer.get("data"), count)
    return {"texts": [_labelled(row, labels) for row in rows]}


def _labelled(row: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    shares = _numbers(row.get("probs"))
    names = [labels[at] if at < len(labels) else f"label {at}" for at in range(len(shares))]
    order = sorted(range(len(shares)), key=lambda at: -shares[at])
    if isinstance(row.get("label"), str):
        names[order[0]] = row["label"][:80]
    scores = [[names[at], round(shares[at], 6)] for at in order]
    return {"label": scores[0][0], "scores": scores[:LABELS], "more": max(0, len(scores) - LABELS)}


# Reading what an engine sent


def _rows(found: Any, count: int) -> list[Mapping[str, Any]]:
    """One row for each text, by their places, whatever order they came in."""
    rows = {
        row.get("index"): row
        for row in (found if isinstance(found, list) else [])
        if isinstance(row, Mapping) and type(row.get("index")) is int
    }
    if rows.keys() != set(range(count)):
        raise Malformed(f"The engine answered {len(rows)} of {count} texts.")
    return [rows[place] for place in range(count)]


def _numbers(found: Any) -> list[float]:
    if not isinstance(found, list) or not found:
        raise Malformed("The engine sent no numbers for a text.")
    return [_number(value) for value in found]


def _number(value: Any) -> float:
    """NaN, which is not within anything, is refused too, and so is what float32 does not hold."""
    if type(value) not in (int, float) or not -LARGEST <= value <= LARGEST:
        raise Malformed("The engine sent something that is not a number.")
    return float(value)
