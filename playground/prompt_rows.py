"""A prompt of the library over a table: each row's cells fill the variables that are called as its columns.

The filled rows become a version of the dataset, beside the one they come from, so that what was asked stays
as it was asked whatever becomes of the prompt. Made once for a table and a version of a prompt.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from playground import access, batches, datasets, prompt_texts, reading
from playground.models import Batch, DatasetRow, DatasetVersion, Prompt, PromptVersion, Shared, Team, User
from playground.prompt_texts import PromptRefused
from playground.reading import Problem, Row

TABLE = DatasetVersion.Kind.TABLE
SHOWN = 20
# What a dataset holds is the team's.
OPENS = {Shared.Sharing.PRIVATE.value: " (private: its filled rows become the team's)"}


def choices(team: Team, user: User) -> list[tuple[str, str]]:
    """(key of the newest version, name) of every prompt of the team that `user` sees."""
    listed = access.listed_to(user, Prompt.objects.filter(team=team))
    rows = PromptVersion.objects.filter(prompt__in=listed).order_by("prompt", "-number").distinct("prompt")
    found = rows.values_list("pk", "prompt__name", "number", "prompt__sharing")
    named = ((str(pk), f"{name} v{number}{OPENS.get(sharing, '')}") for pk, name, number, sharing in found)
    return sorted(named, key=lambda one: one[1])


def _versions(team: Team, user: User) -> QuerySet[PromptVersion]:
    return PromptVersion.objects.filter(prompt__in=access.visible_to(user, Prompt.objects.filter(team=team)))


def check(version: DatasetVersion, prompt: PromptVersion) -> None:
    """PromptRefused unless the table's columns can fill every variable that has no default."""
    if version.kind != TABLE:
        raise PromptRefused(f"A prompt is filled from a table; these rows are {version.get_kind_display()}.")
    needed = [one["name"] for one in prompt.variables if one.get("default") is None]
    missing = [name for name in needed if name not in version.columns]
    if missing:
        known = ", ".join(version.columns[:SHOWN])
        raise PromptRefused(f"The table has no column {', '.join(missing)}. Its columns are: {known}.")


def body(cells: Mapping[str, str], prompt: PromptVersion) -> dict[str, Any]:
    """What a row asks; PromptRefused where a cell is no value for its variable."""
    values = prompt_texts.read(prompt.variables, cells, blank=True)
    return {"messages": prompt_texts.filled(prompt, values), **prompt.parameters}


def begin(
    team: Team,
    user: User,
    name: str,
    version: DatasetVersion,
    columns: list[dict[str, Any]],
    parameters: Mapping[str, Any],
    *,
    prompt: PromptVersion | None,
    webhook: str = "",
) -> Batch:
    """`batches.begin` over the rows of `version`, filled into `prompt` where there is one.

    PromptRefused, datasets.DatasetRefused and batches.BatchRefused leave nothing behind.
    """
    with transaction.atomic():
        if prompt is not None:
            access.require(user, "chat", team)
            version = filled(version, prompt, user)
        return batches.begin(
            team, user, name, version, columns, parameters, webhook=webhook, prompt_version=prompt
        )


def filled(version: DatasetVersion, prompt: PromptVersion, user: User) -> DatasetVersion:
    """The version of the dataset whose rows are the prompt's messages with this one's cells in them."""
    check(version, prompt)
    source = f"v{version.number} with {prompt}"[-255:]
    made = version.dataset.versions.filter(
        batches__prompt_version=prompt, source=source, complete=True, row_count=version.row_count
    ).first()
    if made is not None:
        return made
    fresh = datasets.begin(
        version.dataset,
        user,
        TABLE,
        source,
        size=version.size_bytes,
        columns=version.columns,
        template=prompt.messages,
    )
    return datasets.fill(fresh, _rows(version, prompt), skip_bad=False)


def _rows(version: DatasetVersion, prompt: PromptVersion) -> Iterator[Row | Problem]:
    for row in DatasetRow.objects.filter(version=version).order_by("number").iterator(chunk_size=500):
        try:
            said = body(row.cells, prompt)
        except PromptRefused as problem:
            yield Problem(row.line, str(problem))
            continue
        size = len(json.dumps([said, row.cells], ensure_ascii=False).encode())
        url = reading.CHAT
        yield Row(row.line, row.custom_id, url, said, row.cells, row.expected, size)


def of_team(team: Team, user: User, key: str) -> PromptVersion | None:
    """The version of that key, if it is one of the team's prompts' that `user` sees."""
    if not key.isdecimal() or len(key) > 18:
        return None
    return _versions(team, user).select_related("prompt").filter(pk=key).first()
