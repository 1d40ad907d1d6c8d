"""Prompts of the library in the playground: a conversation begun with one, its variables, saving back."""

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from playground import access, opening, prompt_texts, thread
from playground.models import Column, Conversation, Deployment, Model, PromptVersion, User
from playground.prompt_texts import PromptRefused
from playground.prompts import Said


def begin(
    version: PromptVersion, user: User, deployment: Deployment | None, values: Mapping[str, Any]
) -> Conversation:
    """A conversation with one column that opens with `version`; what it asks waits in the composer."""
    prompt = version.prompt
    access.require(user, "chat", prompt.team)
    if deployment and deployment.model.task != Model.Task.CHAT:
        raise PromptRefused(f"{deployment.name} is no chat model.", "deployment")
    _require(version, values)
    with transaction.atomic():
        row = Conversation.objects.create(
            team=prompt.team,
            created_by=user,
            title=f"{prompt.name} v{version.number}",
            sharing=access.kept_private(prompt),
        )
        Column.objects.create(conversation=row, deployment=deployment)
        use(row, version, values, user)
    return row


def use(conversation: Conversation, version: PromptVersion, values: Mapping[str, Any], user: User) -> None:
    """From the next message on it opens with `version`: its system prompt, messages and parameters."""
    if conversation.task != Model.Task.CHAT:
        raise PromptRefused("A prompt of the library opens chats alone.")
    _require(version, values)
    system = opening.split(version.messages).system
    kept = {
        "prompt_version": version,
        "prompt_values": dict(values),
        "system_prompt": system,
        "parameters": version.parameters,
    }
    before = opening.told(conversation)
    opening.keep(conversation, kept)
    opening.record(conversation, user, before)


def give(conversation: Conversation, values: Mapping[str, Any], user: User) -> None:
    """Other values for the variables, from the next message on."""
    if conversation.prompt_version is None:
        raise PromptRefused("No prompt is chosen here.")
    for variable in opening.variables(conversation, conversation.prompt_version):
        if values.get(variable["name"]) is not None:
            prompt_texts.written(variable, values[variable["name"]])
    before = opening.told(conversation)
    opening.keep(conversation, {"prompt_values": dict(values)})
    opening.record(conversation, user, before)


def said(conversation: Conversation, shown: thread.Shown) -> Said:
    """What a prompt saved from here says.

    Begun with a prompt: that one's messages with the system prompt as it is now. Else the system prompt and
    the branch shown up to its last message, so that running the prompt asks for that answer.
    """
    version = conversation.prompt_version
    if version is not None:
        found = opening.split(version.messages)
        last = [{"role": "user", "content": found.asked}] if found.asked else []
        first = _first(found.role, conversation.system_prompt)
        return Said(
            [*first, *found.between, *last], opening.variables(conversation, version), conversation.parameters
        )
    messages = _first("system", prompt_texts.escape(conversation.system_prompt))
    for turn in shown.turns:
        messages.append({"role": "user", "content": prompt_texts.escape(turn.turn.text)})
        if turn is not shown.turns[-1] and turn.lead and turn.lead.text:
            messages.append({"role": "assistant", "content": prompt_texts.escape(turn.lead.text)})
    return Said(messages, [], conversation.parameters)


def _first(role: str, text: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": text}] if text else []


def _require(version: PromptVersion, values: Mapping[str, Any]) -> None:
    """PromptRefused for a wrong value; one that is missing may still come, before the first message."""
    for variable in version.variables:
        if values.get(variable["name"]) is not None:
            prompt_texts.written(variable, values[variable["name"]])
