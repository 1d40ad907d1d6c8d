"""What a conversation opens with: its system prompt and, begun with a prompt of the library, its messages.

Such a conversation's system prompt is the text of the version's first message, {{variables}} and all, and may
be changed there. The messages between it and the last are the version's own and go before what people say.
The last one, if it is a user's text, is what the composer offers. Variables are filled in for each request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from playground import access, events, key_order, prompt_texts
from playground.models import Conversation, Prompt, PromptVersion, User
from playground.prompt_texts import PromptRefused

LEADS = ("system", "developer")


@dataclass(frozen=True)
class Split:
    """A version's messages as a conversation holds them. `role`: of the first, where it sets the scene."""

    role: str
    system: str
    between: Sequence[Mapping[str, Any]]
    asked: str


@dataclass(frozen=True)
class Asking:
    """Messages with variables, as `prompt_texts.filled` reads them."""

    messages: Sequence[Mapping[str, Any]]
    variables: Sequence[Mapping[str, Any]]


def split(messages: Sequence[Mapping[str, Any]]) -> Split:
    rest = list(messages)
    role, system, asked = "system", "", ""
    if rest and rest[0]["role"] in LEADS and (text := _text(rest[0])) is not None:
        role, system = rest.pop(0)["role"], text
    if rest and rest[-1]["role"] == "user" and (text := _text(rest[-1])) is not None:
        rest.pop()
        asked = text
    return Split(role, system, rest, asked)


def _text(message: Mapping[str, Any]) -> str | None:
    """The message's text where it is nothing but text."""
    content = message.get("content")
    if message.keys() - {"role", "content"}:
        return None
    return content if isinstance(content, str) else None


def messages(conversation: Conversation, system: str | None = None) -> list[dict[str, Any]]:
    """What goes before the first turn. `system`: a column's own in place of the conversation's.

    PromptRefused where a variable has no value, or a wrong one.
    """
    text = conversation.system_prompt if system is None else system
    version = conversation.prompt_version
    if version is None:
        return [{"role": "system", "content": text}] if text else []
    found = split(version.messages)
    first = [{"role": found.role, "content": text}] if text else []
    return _filled(conversation, version, [*first, *found.between])


def asked(conversation: Conversation) -> str:
    """What the composer offers: the last message of the prompt, filled in as far as it can be; else ""."""
    version = conversation.prompt_version
    if version is None:
        return ""
    text = split(version.messages).asked
    if not text:
        return ""
    try:
        return str(_filled(conversation, version, [{"role": "user", "content": text}])[0]["content"])
    except PromptRefused:
        return text


def variables(conversation: Conversation, version: PromptVersion) -> list[dict[str, Any]]:
    """The version's variables, and those that the conversation's system prompt names beside them."""
    system = {"role": "system", "content": conversation.system_prompt}
    return prompt_texts.declared([system, *version.messages], version.variables)


def beside(conversation: Conversation) -> dict[str, Any]:
    """What sets it apart beside its system prompt: {"prompt": key of the version, "values"}, or nothing."""
    key = conversation.prompt_version_id
    return {} if key is None else {"prompt": key, "values": conversation.prompt_values}


def leave(conversation: Conversation, user: User) -> None:
    """No prompt any more; the system prompt stays as it reads with its variables filled in."""
    before = told(conversation)
    _stand_alone(conversation)
    record(conversation, user, before)


def let_go(prompt: Prompt) -> None:
    """Make every conversation that a version of `prompt` opens stand by itself: the prompt is about to go."""
    rows = Conversation.objects.filter(prompt_version__prompt=prompt)
    for row in rows.select_related("prompt_version"):
        _stand_alone(row)


def told(conversation: Conversation) -> dict[str, Any]:
    """What it opens with, for the audit log."""
    version = conversation.prompt_version
    return {
        "prompt": f"{version.prompt.name} v{version.number}" if version else None,
        "values": conversation.prompt_values,
        "system_prompt": conversation.system_prompt,
    }


def record(conversation: Conversation, user: User, before: Mapping[str, Any]) -> None:
    """Tell the audit log what changed of it."""
    after = told(conversation)
    changed = [name for name in after if key_order.ordered(after[name]) != key_order.ordered(before[name])]
    if changed:
        access.audit(
            user,
            conversation.team,
            "set up conversation",
            f"conversation:{conversation.pk}",
            name=conversation.title,
            before={name: before[name] for name in changed},
            after={name: after[name] for name in changed},
        )


def keep(conversation: Conversation, fields: Mapping[str, Any]) -> None:
    """Write what a conversation opens with, and tell its pages."""
    Conversation.objects.filter(pk=conversation.pk).update(**fields)
    for name, value in fields.items():
        setattr(conversation, name, value)
    events.notify(conversation.team_id, f"conversation:{conversation.pk}", "conversations")


def _stand_alone(conversation: Conversation) -> None:
    keep(conversation, {"prompt_version": None, "prompt_values": {}, "system_prompt": _plain(conversation)})


def _plain(conversation: Conversation) -> str:
    try:
        found = messages(conversation)
    except PromptRefused:
        return str(conversation.system_prompt)
    return str(found[0]["content"]) if conversation.system_prompt else ""


def _filled(
    conversation: Conversation, version: PromptVersion, messages: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Only what `messages` names has to have a value."""
    names = prompt_texts.used(messages)
    declared = prompt_texts.declared(messages, version.variables)
    known = [variable for variable in declared if variable["name"] in names]
    values = {name: value for name, value in conversation.prompt_values.items() if name in names}
    return prompt_texts.filled(Asking(messages, known), values)
