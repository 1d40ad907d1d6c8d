"""What site administrators do with people: who is one, and who may sign in at all."""

from django.db import transaction

from playground import access, events, members
from playground.models import Invitation, User
from playground.teams import TeamRefused


def set_staff(person: User, wanted: bool, by: User) -> None:
    """Make a person a site administrator, or not one any more; TeamRefused for the last."""
    with transaction.atomic():
        row = _held(person)
        if row.is_staff == wanted:
            return
        if not wanted:
            _refuse_last(row)
        User.objects.filter(pk=row.pk).update(is_staff=wanted)
        _told(row, "change site administrator", by, is_staff=wanted)


def set_active(person: User, wanted: bool, by: User) -> None:
    """Let a person sign in, or not any more; then every session of theirs is over, and
    nobody comes by a link they made.
    """
    with transaction.atomic():
        row = _held(person)
        if row.is_active == wanted:
            return
        if not wanted:
            _refuse_last(row)
        User.objects.filter(pk=row.pk).update(is_active=wanted)
        if not wanted:
            members.withdraw_invitations(Invitation.objects.filter(created_by=row))
        _told(row, "let in" if wanted else "shut out", by, is_active=wanted)


def _held(person: User) -> User:
    """The row as it is now. All site administrators' rows are held: the last two cannot go at once."""
    list(User.objects.select_for_update(no_key=True).filter(is_staff=True).order_by("pk"))
    return User.objects.select_for_update(no_key=True).get(pk=person.pk)


def _refuse_last(row: User) -> None:
    others = User.objects.filter(is_staff=True, is_active=True).exclude(pk=row.pk)
    if row.is_staff and not others.exists():
        raise TeamRefused(f"{row.get_username()} is the last site administrator: make another one first.")


def _told(row: User, verb: str, by: User, **after: bool) -> None:
    before = {name: not value for name, value in after.items()}
    access.audit(by, None, verb, f"user:{row.pk}", name=row.get_username(), before=before, after=after)
    events.standing(row.pk)
