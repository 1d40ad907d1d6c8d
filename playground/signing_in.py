"""How django-allauth signs people in here: who gets an account, what is remembered of each attempt, how
secrets are kept. Everything that allauth asks a site about is answered in this module.
"""

import logging
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.internal.flows.login import get_authentication_records
from allauth.account.signals import user_logged_in
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.mfa.signals import (
    authentication_failed,
    authenticator_added,
    authenticator_removed,
    authenticator_reset,
)
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialAccount, SocialLogin
from allauth.socialaccount.signals import social_account_added, social_account_removed
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth import login
from django.db import transaction
from django.http import HttpRequest
from django.shortcuts import redirect
from django.utils import timezone

from playground import access, accounts, secrets, teams
from playground.models import User

log = logging.getLogger(__name__)

BACKEND = "django.contrib.auth.backends.ModelBackend"
# In the session: the invitation by which somebody without an account came.
INVITED = "invitation"
KINDS = {"totp": "authenticator app", "webauthn": "passkey", "recovery_codes": "recovery codes"}


class AccountAdapter(DefaultAccountAdapter):
    error_messages = DefaultAccountAdapter.error_messages | {
        "username_password_mismatch": "This name and this password do not belong together.",
        "too_many_login_attempts": "Too many attempts. Wait five minutes, or sign in another way.",
        "incorrect_password": "That is not your password.",
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Never by allauth's own form: see `accounts`."""
        return False

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        refused(credentials.get("username", ""), "password")

    def is_reauthentication_required(self, *, app: str, **given: Any) -> bool:
        """Not of somebody who signed in a moment ago."""
        return not signed_in_lately(self.request)


class SecondFactorAdapter(DefaultMFAAdapter):
    """Secrets of authenticator apps are encrypted as those of teams are."""

    error_messages = DefaultMFAAdapter.error_messages | {
        "incorrect_code": "This code does not hold, or no longer. Try the next one."
    }

    def encrypt(self, text: str) -> str:
        return secrets.sealed(text)

    def decrypt(self, encrypted_text: str) -> str:
        return secrets.opened(encrypted_text)

    def get_public_key_credential_rp_entity(self) -> dict[str, str]:
        return super().get_public_key_credential_rp_entity() | {"name": "Slipway"}

    def generate_authenticator_name(self, user: Any, type: Any) -> str:
        count = Authenticator.objects.filter(user_id=user.pk, type=type).count()
        return f"Passkey {count + 1}"


class ProviderAdapter(DefaultSocialAccountAdapter):
    """OpenID Connect and SAML. Their addresses are not trusted to be anybody's: only their own ids are."""

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        sociallogin.email_addresses = []

    def on_authentication_error(self, request: HttpRequest, provider: Any, **given: Any) -> None:
        refused("", f"{provider.id}: {given.get('error') or 'refused'}"[:60])

    def list_apps(self, request: HttpRequest, provider: Any = None, client_id: Any = None) -> list[Any]:
        """Those of the settings, and none from the database: a page asks for none."""
        from allauth.socialaccount.adapter import _build_apps_from_settings

        found = _build_apps_from_settings(provider=provider, client_id=client_id)
        return [app for apps in found.values() for app in apps]

    def is_open_for_signup(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:
        if _open_to_all(sociallogin) or _invited(request):
            return True
        refused("", f"{sociallogin.account.provider}: nobody here")
        return False

    def save_user(self, request: HttpRequest, sociallogin: SocialLogin, form: Any = None) -> Any:
        """The account, and with an invitation its place in the team, or neither: one lets in one person."""
        try:
            with transaction.atomic():
                user = super().save_user(request, sociallogin, form)
                how = {"provider": sociallogin.account.provider}
                access.audit(user, None, "make account", f"user:{user.pk}", name=user.get_username(), **how)
                accounts.welcome(user, _newcomers(sociallogin))
                if not _open_to_all(sociallogin):
                    teams.accept(request.session.get(INVITED, ""), user)
        except teams.TeamRefused:
            # Somebody else came by it in this moment.
            raise ImmediateHttpResponse(redirect("invitation", request.session.pop(INVITED))) from None
        return user


def _open_to_all(sociallogin: SocialLogin) -> bool:
    return _newcomers(sociallogin).get("new_people") == "all"


def _newcomers(sociallogin: SocialLogin) -> dict[str, str]:
    found: dict[str, str] = sociallogin.provider.app.settings
    return found


def _invited(request: HttpRequest) -> bool:
    try:
        teams.invitation(request.session.get(INVITED, ""))
    except teams.TeamRefused:
        return False
    return True


def signed_in_lately(request: HttpRequest) -> bool:
    """Whether they proved it within ACCOUNT_REAUTHENTICATION_TIMEOUT: then no page asks again."""
    records = get_authentication_records(request, request.user)
    age = timezone.now().timestamp() - max((record["at"] for record in records), default=0)
    return age < settings.ACCOUNT_REAUTHENTICATION_TIMEOUT


def came_by_link(request: HttpRequest) -> bool:
    """Whether they came a moment ago by a one-time link: whoever forgot a password sets a new one so."""
    records = get_authentication_records(request, request.user)
    return any(record["method"] == "link" for record in records) and signed_in_lately(request)


def sign_in(request: HttpRequest, user: User, how: str) -> None:
    """Sign somebody in whom this site itself let in: by a one-time link, or with an account just made."""
    from allauth.account.internal.flows.login import record_authentication

    login(request, user, backend=BACKEND)
    record_authentication(request, user, how)
    UserSession.objects.create_from_request(request)
    access.audit(user, None, "sign in", f"user:{user.pk}", name=user.get_username(), how=how)


# What is remembered


def refused(username: str, how: str) -> None:
    """Remember a failed attempt. What was typed is kept only where it is a name: it may be a password."""
    user = User.objects.filter(username=username).first() if username else None
    who = f"user:{user.pk}" if user else "user:unknown"
    access.audit(None, None, "refused sign in", who, name=user.get_username() if user else "", how=how)


def _on_signed_in(request: HttpRequest, user: User, **given: Any) -> None:
    """By allauth: with a password, a passkey or a provider."""
    records = get_authentication_records(request, user)
    ways = [KINDS.get(one.get("type", ""), one.get("provider", one["method"])) for one in records]
    access.audit(user, None, "sign in", f"user:{user.pk}", name=user.get_username(), how=", ".join(ways))


def _on_code_refused(user: User, authenticator: Authenticator, **given: Any) -> None:
    refused(user.get_username(), KINDS[authenticator.type])


def _audited(action: str) -> Any:
    def changed(user: User, authenticator: Authenticator, **given: Any) -> None:
        kind = KINDS[authenticator.type]
        access.audit(user, None, f"{action} {kind}", f"user:{user.pk}", name=user.get_username())

    return changed


def _on_connected(request: HttpRequest, sociallogin: SocialLogin, **given: Any) -> None:
    user, detail = sociallogin.user, {"provider": sociallogin.account.provider}
    access.audit(user, None, "connect provider", f"user:{user.pk}", name=user.get_username(), **detail)


def _on_disconnected(request: HttpRequest, socialaccount: SocialAccount, **given: Any) -> None:
    user, provider = socialaccount.user, socialaccount.provider
    access.audit(
        user, None, "disconnect provider", f"user:{user.pk}", name=user.get_username(), provider=provider
    )


def listen() -> None:
    """Called once, when the applications are ready."""
    user_logged_in.connect(_on_signed_in, weak=False)
    authentication_failed.connect(_on_code_refused, weak=False)
    social_account_added.connect(_on_connected, weak=False)
    social_account_removed.connect(_on_disconnected, weak=False)
    for signal, action in (
        (authenticator_added, "add"),
        (authenticator_removed, "remove"),
        (authenticator_reset, "renew"),
    ):
        signal.connect(_audited(action), weak=False)
