"""Addresses of signing in and of one's own account. allauth looks its pages up by the names it gave them."""

from collections.abc import Callable
from typing import Any

from allauth.account import views as allauth
from allauth.mfa.base import views as mfa
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes import views as codes
from allauth.mfa.totp import views as totp
from allauth.mfa.webauthn import views as webauthn
from allauth.socialaccount import views as social
from allauth.socialaccount.models import SocialAccount
from allauth.socialaccount.providers.openid_connect import views as oidc
from allauth.socialaccount.providers.saml import views as saml
from django.db.models import Model
from django.urls import URLPattern, path

from playground.declared import PUBLIC, SELF, Policy, guarded, open_to_all
from playground.views import account, joining, signin

View = Callable[..., Any]


# One OpenID Connect provider, one SAML provider.
BY, SAML = "sign-in/by/<slug:provider_id>/", "sign-in/saml/<slug:organization_slug>/"
PASSKEY = "account/passkeys/<int:pk>/"
WHY = "It lies on the way in: who opens it is nobody yet."


def way(route: str, view: View, *names: str, reads: bool = True, writes: bool = True) -> list[URLPattern]:
    """An address on the way in, which anybody may open, by each of its names."""
    opened = open_to_all(view, Policy(PUBLIC if reads else None, PUBLIC if writes else None, why=WHY))
    return [path(route, opened, name=name) for name in names]


def own(
    route: str,
    view: View,
    *names: str,
    reads: bool = True,
    writes: bool = True,
    of: type[Model] | None = None,
) -> list[URLPattern]:
    """An address about the person themselves, or a row `of` theirs."""
    opened = guarded(view, Policy(SELF if reads else None, SELF if writes else None, of))
    return [path(route, opened, name=name) for name in names]


urlpatterns: list[URLPattern] = [
    *way("sign-in/", signin.SignIn.as_view(), "account_login", "sign-in"),
    *way("sign-in/<str:token>", signin.by_link, "sign-in-link", writes=False),
    *way("sign-in/second/", signin.SecondFactor.as_view(), "mfa_authenticate"),
    *way("sign-in/passkey/", signin.ByPasskey.as_view(), "mfa_login_webauthn"),
    *way("sign-in/inactive/", allauth.account_inactive, "account_inactive", writes=False),
    *way("sign-in/cancelled/", social.login_cancelled, "socialaccount_login_cancelled", writes=False),
    *way("sign-in/error/", social.login_error, "socialaccount_login_error", writes=False),
    *way(BY, signin.to_provider(oidc.login), "openid_connect_login", reads=False),
    *way(
        BY + "back/",
        signin.answered(oidc.callback),
        "openid_connect_callback",
        writes=False,
    ),
    *way(SAML, signin.to_provider(saml.login), "saml_login", reads=False),
    *way(SAML + "back/", signin.saml_answer, "saml_acs", reads=False),
    *way(
        SAML + "end/",
        signin.answered(saml.finish_acs),
        "saml_finish_acs",
        writes=False,
    ),
    *way(SAML + "out/", signin.answered(saml.sls), "saml_sls"),
    *way(SAML + "metadata/", saml.metadata, "saml_metadata", writes=False),
    *way("sign-out/", signin.leave, "sign-out", "account_logout", reads=False),
    *way("join/<str:token>/", joining.page, "invitation"),
    *way("join/<str:token>/passkey/", joining.passkey, "invitation-passkey", reads=False),
    *own("account/", account.page, "account", "mfa_index", "mfa_list_webauthn", "socialaccount_connections"),
    *own("account/password/", account.password, "account-password"),
    *own("account/sessions/", account.sessions, "sessions", "usersessions_list", writes=False),
    *own("account/sessions/end/", account.end_session, "session-end", reads=False),
    *own("account/confirm/", allauth.reauthenticate, "account_reauthenticate"),
    *own("account/confirm/code/", mfa.reauthenticate, "mfa_reauthenticate"),
    *own("account/confirm/passkey/", account.ConfirmByPasskey.as_view(), "mfa_reauthenticate_webauthn"),
    *own("account/app/", totp.activate_totp, "mfa_activate_totp"),
    *own("account/app/remove/", account.remove_app, "mfa_deactivate_totp", reads=False),
    *own("account/passkeys/add/", webauthn.add_webauthn, "mfa_add_webauthn"),
    *own(PASSKEY, account.rename_passkey, "mfa_edit_webauthn", of=Authenticator),
    *own(
        "account/passkeys/<int:pk>/remove/",
        account.remove_passkey,
        "mfa_remove_webauthn",
        reads=False,
        of=Authenticator,
    ),
    *own("account/codes/", codes.view_recovery_codes, "mfa_view_recovery_codes", writes=False),
    *own("account/codes/new/", codes.generate_recovery_codes, "mfa_generate_recovery_codes"),
    *own(
        "account/codes/codes.txt", codes.download_recovery_codes, "mfa_download_recovery_codes", writes=False
    ),
    *own(
        "account/providers/<int:pk>/remove/",
        account.disconnect_provider,
        "provider-remove",
        reads=False,
        of=SocialAccount,
    ),
]
