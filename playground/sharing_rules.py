"""Who of a team may write in a conversation: all who may chat, or its owner and administrators alone."""

from playground import access, conversations
from playground.models import Conversation, Membership, User

EDIT, VIEW = Conversation.Sharing.EDIT, Conversation.Sharing.VIEW


class SharingRefused(Exception):
    """It stays as it was; the text says why."""


def may_write(user: User, conversation: Conversation) -> bool:
    """Whether `user` may send, edit, set up, stop and delete there."""
    return access.can(user, "chat", conversation.team) and _let_in(user, conversation)


def require_write(user: User, conversation: Conversation) -> None:
    """Raise access.Refused, and keep an audit row, unless `user` may write there."""
    access.require(user, "chat", conversation.team)
    if not _let_in(user, conversation):
        access.audit(user, conversation.team, "refused write", f"conversation:{conversation.pk}")
        raise access.Refused(why_not(conversation))


def why_not(conversation: Conversation) -> str:
    """What a person who may only read there is told."""
    owner = conversation.created_by
    whom = owner.get_username() if owner else "an administrator"
    return f"This conversation is shared to be read. Fork it to go on by yourself, or ask {whom} to open it."


def may_share(user: User, conversation: Conversation) -> bool:
    """Whether `user` may say who writes there: its owner, and administrators."""
    return access.can(user, "chat", conversation.team) and _holds(user, conversation)


def share(conversation: Conversation, user: User, sharing: str) -> None:
    """From now on the team may write ("edit") or only read ("view") there."""
    access.require(user, "chat", conversation.team)
    if not _holds(user, conversation):
        access.audit(user, conversation.team, "refused share", f"conversation:{conversation.pk}")
        raise access.Refused("Who may write is for its owner and the team's administrators to say.")
    if sharing not in Conversation.Sharing.values:
        raise SharingRefused("Choose whether the team may write or read.")
    before, after = {"sharing": conversation.sharing}, {"sharing": sharing}
    Conversation.objects.filter(pk=conversation.pk).update(sharing=sharing)
    conversation.sharing = sharing
    conversations.record(conversation, user, "share", before, after)
    conversations.tell(conversation)


def _let_in(user: User, conversation: Conversation) -> bool:
    return conversation.sharing == EDIT or _holds(user, conversation)


def _holds(user: User, conversation: Conversation) -> bool:
    owns = conversation.created_by_id == user.pk
    return owns or access.role_in(user, conversation.team) == Membership.Role.ADMIN
