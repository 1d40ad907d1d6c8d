"""People and their teams: who is in which, how one gets in and out; and one-time sign-in links.

Knows nothing about requests. That whoever asks may do it was judged before.
"""

import hashlib
import hmac
import secrets
from datetime import timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone
from django.utils.text import slugify

from playground import access
from playground.models import Invitation, LoginLink, Membership, Team, User

Role = Membership.Role
DAYS_AT_MOST = 30
GONE = "This invitation is used, withdrawn or too old. Ask whoever sent it for another."


class TeamRefused(Exception):
    """A team may not be changed so; the text says why. `field` names what was wrong in a form."""

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


def default_team() -> Team:
    """The team everything belongs to until a second one is made."""
    return Team.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]


def first_user() -> User:
    """The site administrator whom the machine's own commands act as and sign in: "admin", made at the first
    start and put into the default team then; another one where that account was shut out or is none any more.
    """
    with transaction.atomic():
        user, made = User.objects.get_or_create(username="admin")
        if made:
            user.set_unusable_password()
            user.is_staff = True
            user.save(update_fields=["password", "is_staff"])
            Membership.objects.create(user=user, team=default_team(), role=Role.ADMIN)
        make_personal(user)
    able = User.objects.filter(is_staff=True, is_active=True).order_by("pk")
    return user if user.is_active and user.is_staff else able.first() or user


def make_personal(user: User) -> Team:
    """The team that is only theirs; made when it is not there yet."""
    slug = f"personal-{user.pk}"
    name = f"{user.get_username()[:60]} (personal)"
    with transaction.atomic():
        team, made = Team.objects.get_or_create(person=user, defaults={"name": name, "slug": slug})
        if made:
            Membership.objects.create(user=user, team=team, role=Role.ADMIN)
    return team


def make(name: str, by: User) -> Team:
    """A new team, whose maker is its first administrator."""
    name = _name(name)
    with transaction.atomic():
        team = Team.objects.create(name=name, slug=_free_slug(name))
        Membership.objects.create(user=by, team=team, role=Role.ADMIN)
        access.audit(by, team, "make team", f"team:{team.pk}", name=team.name, after={"name": team.name})
    return team


def rename(team: Team, name: str, by: User) -> None:
    before, team.name = team.name, _name(name, team)
    if before != team.name:
        team.save(update_fields=["name"])
        change = {"before": {"name": before}, "after": {"name": team.name}}
        access.audit(by, team, "rename team", f"team:{team.pk}", name=team.name, **change)


def _name(text: str, team: Team | None = None) -> str:
    """A name as typed, without what is around it; TeamRefused when no team may have it."""
    name = " ".join(text.split())
    if not name or len(name) > 80 or not name.isprintable():
        raise TeamRefused("A name of one to 80 characters.", "name")
    others = Team.objects.exclude(pk=team.pk) if team else Team.objects.all()
    if others.filter(name__iexact=name).exists():
        raise TeamRefused("Another team has this name.", "name")
    return name


def _free_slug(name: str) -> str:
    stem = slugify(name)[:60] or "team"
    taken = set(Team.objects.filter(slug__startswith=stem).values_list("slug", flat=True))
    return stem if stem not in taken else f"{stem}-{secrets.token_hex(4)}"


def switch(user: User, team: Team) -> None:
    """The person works in `team` from now on; TeamRefused for one they are not in."""
    if access.role_in(user, team) is None:
        raise TeamRefused(f"You are not in {team.name}.")
    user.team = team
    User.objects.filter(pk=user.pk).update(team=team)


# Invitations


def invite(team: Team, role: str, by: User, note: str = "", days: int = 7) -> tuple[Invitation, str]:
    """A link's row and its token, which is kept nowhere: whoever has it may join once, within `days`."""
    if team.person_id is not None:
        raise TeamRefused("Nobody else joins a personal team.")
    if role not in Role.values:
        raise TeamRefused("Choose a role.", "role")
    if not 1 <= days <= DAYS_AT_MOST:
        raise TeamRefused(f"From one to {DAYS_AT_MOST} days.", "days")
    token, note = secrets.token_urlsafe(32), " ".join(note.split())[:120]
    with transaction.atomic():
        row = Invitation.objects.create(
            team=team,
            role=role,
            note=note,
            token_hash=_hash(token),
            created_by=by,
            expires_at=timezone.now() + timedelta(days=days),
        )
        after = {"role": role, "note": note, "days": days}
        access.audit(by, team, "invite", f"invitation:{row.pk}", name=note, after=after)
    return row, token


def invitation(token: str) -> Invitation:
    """The open invitation a token belongs to; TeamRefused when there is none."""
    row = _open().filter(token_hash=_hash(token)).select_related("team", "created_by").first()
    if row is None:
        raise TeamRefused(GONE)
    return row


def was_taken_by(token: str, user: User) -> bool:
    """Whether this person joined by it already."""
    return Invitation.objects.filter(token_hash=_hash(token), used_by=user).exists()


def accept(token: str, user: User) -> Team:
    """Join, and work in that team from now on; TeamRefused when the link is spent, or one is in already."""
    row = invitation(token)
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        if access.role_in(user, row.team) is not None:
            raise TeamRefused(f"You are in {row.team.name} already.")
        if _open().filter(pk=row.pk).update(used_by=user, used_at=timezone.now()) != 1:
            raise TeamRefused(GONE)
        Membership.objects.create(user=user, team=row.team, role=row.role)
        switch(user, row.team)
        after = {"role": row.role, "invitation": row.pk}
        access.audit(user, row.team, "join team", f"user:{user.pk}", name=user.get_username(), after=after)
    return row.team


def revoke(row: Invitation, by: User) -> bool:
    """Nobody joins by it any more; False when somebody has, or it was withdrawn before."""
    with transaction.atomic():
        if _open().filter(pk=row.pk).update(revoked_at=timezone.now()) != 1:
            return False
        access.audit(by, row.team, "withdraw invitation", f"invitation:{row.pk}", name=row.note)
    return True


def _open() -> QuerySet[Invitation]:
    """Those that let somebody in: as long as whoever made one could still make it."""
    makers = Membership.objects.filter(
        user=OuterRef("created_by"), team=OuterRef("team"), role=Role.ADMIN, user__is_active=True
    )
    rows = Invitation.objects.filter(used_at=None, revoked_at=None, expires_at__gt=timezone.now())
    return rows.filter(Exists(makers))


# One-time sign-in links


def make_login_link(user: User, minutes: int = 15) -> str:
    """A one-time token that signs `user` in within `minutes`. Only its SHA-256 is kept."""
    token = secrets.token_urlsafe(32)
    expires_at = timezone.now() + timedelta(minutes=minutes)
    LoginLink.objects.create(user=user, token_hash=_hash(token), expires_at=expires_at)
    return token


def sign_in_by(token: str) -> User | None:
    """The person a token belongs to, and the token is used up; None when it is unknown, used or too old."""
    token_hash = _hash(token)
    link = LoginLink.objects.filter(token_hash=token_hash).select_related("user").first()
    if link is None or not hmac.compare_digest(link.token_hash, token_hash):
        return None
    now = timezone.now()
    fresh = LoginLink.objects.filter(
        pk=link.pk, used_at__isnull=True, expires_at__gt=now, user__is_active=True
    )
    return link.user if fresh.update(used_at=now) == 1 else None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
