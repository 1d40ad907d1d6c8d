"""A dataset as the prompts of a measured run: its rows' messages, without their sampling. Asks no engine."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Max

from playground.models import Dataset, DatasetVersion, Team

LISTED = 200
Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Given:
    """The prompts that a version gives. `name` says which and how many of its rows they are."""

    name: str
    prompts: tuple[Prompt, ...]


def choices(team: Team) -> list[tuple[int, str]]:
    """The newest whole version of each dataset of the team: its key and its words."""
    newest = Dataset.objects.filter(team=team, versions__complete=True).annotate(newest=Max("versions__pk"))
    rows = DatasetVersion.objects.filter(pk__in=newest.values("newest")).select_related("dataset")
    listed = rows.order_by("dataset__name")[:LISTED]
    return [(row.pk, f"{_words(row)}, {row.row_count:,} rows") for row in listed]


def _words(version: DatasetVersion) -> str:
    return f"{version.dataset.name} v{version.number}"


def given(team: Team, key: str, most: int, *, single: bool) -> Given:
    """The first `most` prompts of a version of the team's, none twice. ValueError in words.

    `single`: texts that stand alone; rows with more than one message are left out, and the name says so.
    """
    version = DatasetVersion.objects.filter(
        pk=int(key) if key.isdecimal() and len(key) < 18 else 0, complete=True, dataset__team=team
    ).first()
    if version is None:
        raise ValueError("Choose a dataset.")
    found: dict[str, Prompt] = {}
    for prompt in _prompts(version, single):
        found.setdefault(str(prompt), prompt)
        if len(found) == most:
            break
    if not found:
        what = "one message of text" if single else "messages of text"
        raise ValueError(f"No row of {_words(version)} is {what}.")
    of = f", {len(found):,} of {version.row_count:,} rows" if len(found) < version.row_count else ""
    return Given(f"{_words(version)}{of}", tuple(found.values()))


def _prompts(version: DatasetVersion, single: bool) -> Iterator[Prompt]:
    bodies = version.rows.order_by("number").values_list("body", flat=True)
    for body in bodies.iterator(chunk_size=500):
        prompt = _prompt(body)
        if isinstance(prompt, list) and single:
            alone = len(prompt) == 1 and prompt[0]["role"] == "user"
            prompt = prompt[0]["content"].strip() if alone else None
        if prompt:
            yield prompt


def _prompt(body: Mapping[str, Any]) -> Prompt | None:
    """Of a row's request; None where it is no text."""
    messages = body.get("messages")
    if isinstance(messages, list):
        plain = all(isinstance(message.get("content"), str) for message in messages)
        return messages if plain and messages else None
    prompt = body.get("prompt")
    return prompt.strip() if isinstance(prompt, str) else None
