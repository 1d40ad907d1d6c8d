"""What an authenticator app shows, by RFC 6238: six digits of HMAC-SHA-1 over the half minute."""

import base64
import hmac
import time


def code(secret: str, at: float | None = None) -> str:
    """`secret` in base 32, as the page shows it."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    step = int((time.time() if at is None else at) // 30)
    digest = hmac.digest(key, step.to_bytes(8), "sha1")
    start = digest[-1] & 15
    return f"{(int.from_bytes(digest[start : start + 4]) & 0x7FFFFFFF) % 1_000_000:06d}"
