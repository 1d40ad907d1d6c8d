"""Secrets at rest: encrypted with a key made from SLIPWAY_SECRET_KEY; people see their last letters alone.

Knows nothing about what they open. `reveal` is for the process that uses one, never for a page.
"""

import base64
from typing import TYPE_CHECKING

from django.conf import settings
from django.db.models.functions import Now

from playground import access
from playground.models import Secret, Team, User

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

HUB = "hub"
HINT_LETTERS = 4
MAX_TOKEN = 500


class SecretRefused(Exception):
    """That is no such secret; the text says what one looks like."""


class Unreadable(Exception):
    """A secret was encrypted with a key that this process does not have; the text says what to do."""


def keep(team: Team, name: str, value: str, user: User | None) -> Secret:
    """Encrypt and store a secret in the place of the one before it."""
    hint = value[-HINT_LETTERS:] if len(value) >= 4 * HINT_LETTERS else ""
    values = {"ciphertext": _fernet().encrypt(value.encode()), "hint": hint, "created_by": user}
    row, _ = Secret.objects.update_or_create(team=team, name=name, defaults=values)
    access.audit(user, team, "keep secret", f"secret:{name}")
    return row


def keep_token(team: Team, value: str, user: User | None) -> Secret:
    """The team's token of the Hub. SecretRefused where it is none."""
    inner = value.removeprefix("hf_")
    if inner == value or not 10 <= len(value) <= MAX_TOKEN or not (inner.isascii() and inner.isalnum()):
        raise SecretRefused("That is no token: one begins with hf_ and has letters and digits only.")
    return keep(team, HUB, value, user)


def find(team: Team, name: str) -> Secret | None:
    """The row, for its hint and who gave it."""
    return Secret.objects.filter(team=team, name=name).select_related("created_by").first()


def forget(team: Team, name: str, user: User | None) -> bool:
    gone, _ = Secret.objects.filter(team=team, name=name).delete()
    if gone:
        access.audit(user, team, "forget secret", f"secret:{name}")
    return bool(gone)


def reveal(team: Team, name: str) -> str:
    """The secret itself, for its use now; empty when the team has none. Unreadable without its key."""
    from cryptography.fernet import InvalidToken

    row = find(team, name)
    if row is None:
        return ""
    try:
        value = _fernet().decrypt(bytes(row.ciphertext)).decode()
    except InvalidToken as problem:
        raise Unreadable(
            f"The team's {name} token was encrypted with another SLIPWAY_SECRET_KEY than this process has: "
            "give every machine the same one, name the earlier one in SLIPWAY_OLD_SECRET_KEYS, or enter it "
            "anew."
        ) from problem
    Secret.objects.filter(pk=row.pk).update(used_at=Now())
    return value


def sealed(text: str) -> str:
    """A person's secret, encrypted as those of teams are; its row keeps it."""
    return _fernet().encrypt(text.encode()).decode()


def opened(sealed_text: str) -> str:
    """What `sealed` was given; Unreadable without its key."""
    from cryptography.fernet import InvalidToken

    try:
        return _fernet().decrypt(sealed_text.encode()).decode()
    except InvalidToken as problem:
        raise Unreadable(
            "It was encrypted with another SLIPWAY_SECRET_KEY: name that in SLIPWAY_OLD_SECRET_KEYS."
        ) from problem


def renew() -> int:
    """Encrypt all with the present key, where SLIPWAY_OLD_SECRET_KEYS names others; how many there were."""
    from cryptography.fernet import InvalidToken

    renewed = 0
    if not settings.SECRET_KEY_FALLBACKS:
        return renewed
    for row in Secret.objects.order_by("pk"):
        try:
            fresh = _fernet().rotate(bytes(row.ciphertext))
        except InvalidToken:
            continue  # Its key is gone: `reveal` says so to whoever needs it.
        renewed += Secret.objects.filter(pk=row.pk, ciphertext=row.ciphertext).update(ciphertext=fresh)
    return renewed


def _fernet() -> "MultiFernet":
    """The present key first: it encrypts; each of them decrypts."""
    from cryptography.fernet import Fernet, MultiFernet

    return MultiFernet([Fernet(_key(key)) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)])


def _key(secret: str) -> bytes:
    """A Fernet key that only this use has in common with the site's secret key."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = HKDF(SHA256(), 32, salt=None, info=b"slipway: secrets at rest").derive(secret.encode())
    return base64.urlsafe_b64encode(derived)
