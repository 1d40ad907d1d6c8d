"""A small OpenID Connect provider: a Django site of its own, with allauth's idp, in a process of its own.

    python tests/oidc_provider.py PORT FOLDER REDIRECT_URI

Knows one person, NAME with PASSWORD, and one client, CLIENT with SECRET. Serves when it prints "ready".
"""

import os
import sys
from pathlib import Path
from typing import Any

NAME, PASSWORD = "hopper", "nine brass sextants"
CLIENT, SECRET = "slipway", "a secret of the two"


def settings(port: int, folder: Path) -> dict[str, Any]:
    apps = ["auth", "contenttypes", "sessions", "messages"]
    return {
        "SECRET_KEY": "of the tests' provider, which ends with them",
        "ALLOWED_HOSTS": ["127.0.0.1"],
        "ROOT_URLCONF": "oidc_provider",
        "INSTALLED_APPS": [
            *(f"django.contrib.{app}" for app in apps),
            "allauth",
            "allauth.account",
            "allauth.idp.oidc",
        ],
        "MIDDLEWARE": [
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "allauth.account.middleware.AccountMiddleware",
        ],
        "TEMPLATES": [
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
            }
        ],
        "DATABASES": {
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "provider.sqlite3")}
        },
        # Cookies ignore ports: the site beside it has others.
        "SESSION_COOKIE_NAME": f"provider_{port}",
        "CSRF_COOKIE_NAME": f"provider_csrf_{port}",
        "LOGIN_URL": "account_login",
        "ACCOUNT_EMAIL_VERIFICATION": "none",
        "IDP_OIDC_PRIVATE_KEY": private_key(),
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "USE_TZ": True,
    }


def private_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def fill(redirect_uri: str) -> None:
    from allauth.idp.oidc.models import Client
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    User.objects.create_user(NAME, "hopper@example.com", PASSWORD)
    client = Client(id=CLIENT, name="Slipway", scopes="openid\nprofile\nemail", redirect_uris=redirect_uri)
    client.set_secret(SECRET)
    client.save()


def main() -> None:
    port, folder, redirect_uri = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    import django
    from django.conf import settings as configured

    configured.configure(**settings(port, folder))
    django.setup()
    fill(redirect_uri)
    from django.core.servers.basehttp import run
    from django.core.wsgi import get_wsgi_application

    run(
        "127.0.0.1",
        port,
        get_wsgi_application(),
        threading=True,
        on_bind=lambda _: print("ready", flush=True),
    )


if __name__ == "__main__":
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    main()
elif __name__ == "oidc_provider":  # As the addresses of that site; tests import it for the names alone.
    from django.urls import include, path

    urlpatterns = [path("accounts/", include("allauth.urls")), path("", include("allauth.idp.urls"))]
