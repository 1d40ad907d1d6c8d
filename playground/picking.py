"""What the picker of a conversation shows: its prompt, the variables, the library to choose from."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db.models import QuerySet

from playground import access, key_order, opening, prompt_form, prompt_texts, prompts, sharing_rules
from playground.models import Conversation, Model, Prompt, User
from playground.prompt_texts import PromptRefused

LISTED = 200

Rows = tuple[list[dict[str, Any]], dict[str, str]]


def variable_rows(variables: Sequence[Mapping[str, Any]], texts: Mapping[str, str]) -> Rows:
    """A row for each variable as a form shows it, and what is put in for those that have a value."""
    rows: list[dict[str, Any]] = []
    known: dict[str, str] = {}
    for variable in variables:
        name = variable["name"]
        row: dict[str, Any] = {
            "variable": variable,
            "text": texts.get(name, ""),
            "error": "",
            "id": f"value-{name}",
        }
        row["default"] = prompt_form.shown(variable, variable.get("default"))
        row["needed"] = variable.get("default") is None
        try:
            known |= prompt_texts.texts([variable], prompt_texts.read([variable], texts))
        except PromptRefused as problem:
            row["error"] = str(problem)
        rows.append(row)
    return rows, known


def picker(user: User, conversation: Conversation, texts: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Everything the picker's template needs; {} where no prompt can open the conversation.

    `texts`: what was typed for the variables and could not be taken.
    """
    if conversation.task != Model.Task.CHAT:
        return {}
    version = conversation.prompt_version
    found: dict[str, Any] = {
        "version": version,
        "may_chat": sharing_rules.may_write(user, conversation),
        "may_save": access.can(user, "chat", conversation.team),
        "library": _library(user, conversation),
        "asked": opening.asked(conversation),
        "may_save_back": version is not None and access.can(user, "chat", version.prompt),
        "linked": version is not None and access.can(user, "view", version.prompt),
    }
    return found if version is None else found | _chosen(conversation, texts)


def _library(user: User, conversation: Conversation) -> QuerySet[Prompt]:
    rows = access.listed_to(user, prompts.find(conversation.team))
    return rows.only("name", "head").order_by("name")[:LISTED]


def _chosen(conversation: Conversation, texts: Mapping[str, str] | None) -> dict[str, Any]:
    version = conversation.prompt_version
    assert version is not None
    variables = opening.variables(conversation, version)
    given = {
        one["name"]: prompt_form.shown(one, conversation.prompt_values.get(one["name"])) for one in variables
    }
    rows, known = variable_rows(variables, given if texts is None else texts)
    system = opening.split(version.messages).system
    return {
        "rows": rows,
        "missing": [row["variable"]["name"] for row in rows if row["variable"]["name"] not in known],
        "between": len(opening.split(version.messages).between),
        "brought": sorted(conversation.parameters.keys() & {"response_format", "tools"}),
        "moved_on": version.prompt.head > version.number,
        "changed": conversation.system_prompt != system
        or not key_order.same(conversation.parameters, version.parameters),
    }
