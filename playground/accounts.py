"""People's accounts: how one comes to be, its password, and the sessions that are signed in to it.

Knows nothing about pages. Nobody registers: an account comes with an invitation or by a provider that the
settings trust with newcomers.
"""

import logging
from collections.abc import Iterable

from allauth.account.adapter import get_adapter
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import connection, transaction
from django.db.models import QuerySet
from django.http import Http404

from playground import access, events, teams
from playground.models import Membership, Team, User

Wrong = dict[str, str]
log = logging.getLogger(__name__)


class AccountRefused(Exception):
    """An account cannot be made or changed so; `wrong` says of each field what is wrong with it."""

    def __init__(self, wrong: Wrong) -> None:
        super().__init__(" ".join(wrong.values()))
        self.wrong = wrong


def make(username: str, password: str | None, *, pk: int | None = None) -> User:
    """A new account with a team of its own; without a password it is signed in to by other means.

    `pk`: a number that `reserve` gave. AccountRefused names the fields that are wrong.
    """
    username = username.strip()
    user = User(pk=pk, username=username)
    wrong = {}
    if password is None:
        user.set_unusable_password()
    elif problem := wrong_password(password, user):
        wrong["password"] = problem
    else:
        user.set_password(password)
    with transaction.atomic():
        _one_name_at_a_time()
        if wrong := _wrong_name(username) | wrong:
            raise AccountRefused(wrong)
        user.save(force_insert=True)
        teams.make_personal(user)
        access.audit(user, None, "make account", f"user:{user.pk}", name=username)
    return user


def _one_name_at_a_time() -> None:
    """Until the transaction ends nobody else makes an account: of two who choose one name one is told."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('account names', 0))")


def reserve() -> int:
    """The number that an account made later will have: a passkey is made for a number, before the account."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval(pg_get_serial_sequence(%s, 'id'))", [User._meta.db_table])
        return int(cursor.fetchone()[0])


def wrong_password(password: str, user: User) -> str:
    """What is wrong with a new password, in words; nothing when it will do."""
    try:
        get_adapter().clean_password(password, user=user)
    except ValidationError as problem:
        return " ".join(problem.messages)
    return ""


def check_name(username: str) -> None:
    """AccountRefused where no account can have this name."""
    if wrong := _wrong_name(username.strip()):
        raise AccountRefused(wrong)


def _wrong_name(username: str) -> Wrong:
    if not username:
        return {"username": "Choose a name to sign in with."}
    if len(username) > 150:
        return {"username": "At most 150 letters."}
    try:
        UnicodeUsernameValidator()(username)
    except ValidationError:
        return {"username": "Letters, digits and @ . + - _ only."}
    if User.objects.filter(username__iexact=username).exists():
        return {"username": "Somebody has this name already. Choose another."}
    return {}


def set_password(user: User, password: str) -> None:
    """A new password; sessions that were signed in before end at once where they are, see `end_sessions`."""
    if problem := wrong_password(password, user):
        raise AccountRefused({"password": problem})
    user.set_password(password)
    user.save(update_fields=["password"])
    access.audit(user, None, "change password", f"user:{user.pk}", name=user.get_username())
    events.standing(user.pk)


def set_email(user: User, email: str) -> None:
    """An address for others to reach a person by; nothing is sent to it. Empty takes it away."""
    email = email.strip()
    if email:
        try:
            validate_email(email)
        except ValidationError:
            raise AccountRefused({"email": "An address like ada@example.com, or nothing."}) from None
    if email != user.email:
        before, user.email = user.email, email
        user.save(update_fields=["email"])
        change = {"before": {"email": before}, "after": {"email": email}}
        access.audit(user, None, "change profile", f"user:{user.pk}", name=user.get_username(), **change)


# Sessions


def sessions_of(user: User) -> list[UserSession]:
    """The sessions signed in now, the newest first; those that have ended since are forgotten."""
    return sorted(UserSession.objects.purge_and_list(user), key=lambda row: row.created_at, reverse=True)


def end_sessions(user: User, rows: Iterable[UserSession]) -> int:
    """End sessions of one person: their pages and sockets are signed out at once. How many there were."""
    ended = 0
    with transaction.atomic():
        for row in rows:
            assert row.user_id == user.pk
            row.end()
            ended += 1
            detail = {"address": row.ip, "browser": row.user_agent[:200]}
            access.audit(user, None, "end session", f"user:{user.pk}", name=user.get_username(), **detail)
        if ended:
            events.standing(user.pk)
    return ended


# Ways in


def tell_renamed(before: Authenticator, user: User) -> None:
    """Remember that a passkey is called otherwise now than `before`, as it was read then."""
    names = [str(row.data.get("name", "")) for row in (before, Authenticator.objects.get(pk=before.pk))]
    if names[0] != names[1]:
        change = {"before": {"name": names[0]}, "after": {"name": names[1]}}
        access.audit(user, None, "rename passkey", f"user:{user.pk}", name=user.get_username(), **change)


def fetch_own[Row: (Authenticator, SocialAccount, UserSession)](
    user: User, rows: "QuerySet[Row]", pk: int
) -> Row:
    """One of a person's own rows, or Http404; that somebody tried another's is remembered."""
    row = rows.filter(user=user, pk=pk).first()
    if row is None:
        access.audit(user, None, "refused write", f"{rows.model._meta.model_name}:{pk}")
        raise Http404("no such thing of yours")
    return row


def ways_in(user: User, without: SocialAccount | Authenticator | None = None) -> list[str]:
    """How a person can sign in by themselves, leaving out one of them that is about to go."""
    keys = Authenticator.objects.filter(user=user, type=Authenticator.Type.WEBAUTHN)
    others = SocialAccount.objects.filter(user=user)
    if isinstance(without, Authenticator):
        keys = keys.exclude(pk=without.pk)
    if isinstance(without, SocialAccount):
        others = others.exclude(pk=without.pk)
    found = ["password"] if user.has_usable_password() else []
    if any(key.wrap().is_passwordless for key in keys):
        found.append("passkey")
    return [*found, *others.values_list("provider", flat=True)]


def welcome(user: User, settings: dict[str, str]) -> None:
    """Bring somebody new into the team that the settings of their provider name, if they do."""
    teams.make_personal(user)
    wanted = settings.get("team", "")
    team = Team.objects.filter(slug=wanted, person=None).first()
    if team is None:
        if wanted:
            log.warning("%s joined no team: their provider's settings name %r", user.pk, wanted)
            access.audit(user, None, "refused join team", f"user:{user.pk}", name=wanted)
        return
    role = settings.get("role", Membership.Role.MEMBER)
    _, new = Membership.objects.get_or_create(user=user, team=team, defaults={"role": role})
    if new:
        teams.switch(user, team)
        access.audit(
            user, team, "join team", f"user:{user.pk}", name=user.get_username(), after={"role": role}
        )
