"""Who of a team reads and writes in a conversation, a prompt or a batch: its owner and administrators say.

What each `sharing` lets people do is `access.can`'s; here it is changed, and told in words.
"""

from collections.abc import Callable, Iterable

from playground import access, events
from playground.models import Batch, Conversation, Membership, Prompt, Shared, User

# Why a thing may not become private: asked of each application that needs others to reach it.
HOLDS: list[Callable[[Shared], str]] = []
_LISTS: dict[type[Shared], str] = {Conversation: "conversations", Prompt: "prompts", Batch: "batches"}


class SharingRefused(Exception):
    """It stays as it was; the text says why."""


def may_write(user: User, row: Shared) -> bool:
    """Whether `user` may send, edit, set up, stop and delete there."""
    return access.can(user, "chat", row)


def require_write(user: User, row: Shared) -> None:
    """Raise access.Refused, and keep an audit row, unless `user` may write there."""
    access.require(user, "chat", row.team)
    if not may_write(user, row):
        access.audit(user, row.team, "refused write", _object(row))
        raise access.Refused(why_not(row))


def why_not(row: Shared) -> str:
    """What a person who may only read there is told."""
    if not isinstance(row, Conversation):
        return access.reading_only(row)
    owner = row.created_by
    whom = owner.get_username() if owner else "an administrator"
    return f"This conversation is shared to be read. Fork it to go on by yourself, or ask {whom} to open it."


def held_back(user: User, row: Shared) -> str:
    """Why a person who may write elsewhere in the team may only read here; empty where that is not so."""
    if may_write(user, row) or not access.can(user, "chat", row.team):
        return ""
    return why_not(row)


def may_share(user: User, row: Shared) -> bool:
    """Whether `user` may say who reads and writes there: its owner, and administrators."""
    return access.can(user, "chat", row.team) and access.holds(user, row)


def share(row: Shared, user: User, sharing: str) -> None:
    """From now on the team may write ("edit") or only read ("view") there, or it is "private"."""
    access.require(user, "chat", row.team)
    if not access.holds(user, row):
        access.audit(user, row.team, "refused share", _object(row))
        raise access.Refused("Who may write is for its owner and the team's administrators to say.")
    if sharing not in Shared.Sharing.values:
        raise SharingRefused("Choose whether the team may write, may read, or neither.")
    if sharing == Shared.Sharing.PRIVATE:
        _require_free(row)
    before, after = {"sharing": row.sharing}, {"sharing": sharing}
    type(row)._default_manager.filter(pk=row.pk).update(sharing=sharing)
    row.sharing = sharing
    access.audit(
        user,
        row.team,
        f"share {row._meta.model_name}",
        _object(row),
        name=str(row),
        before=before,
        after=after,
    )
    _tell(row)


def _require_free(row: Shared) -> None:
    """Raise SharingRefused where others have to reach it."""
    if why := next(iter(_reasons(row)), ""):
        raise SharingRefused(why)


def _reasons(row: Shared) -> Iterable[str]:
    if row.created_by_id is None:
        yield "Nobody owns it: whoever made it has no account any more, or it came over the API."
    yield from filter(None, (ask(row) for ask in HOLDS))


def _tell(row: Shared) -> None:
    """Pages look anew; sockets that may not hear of it any more are closed."""
    events.notify(row.team_id, _object(row), _LISTS[type(row)])
    if row.sharing == Shared.Sharing.PRIVATE:
        events.standing(*Membership.objects.filter(team=row.team_id).values_list("user", flat=True))


def _object(row: Shared) -> str:
    return f"{row._meta.model_name}:{row.pk}"
