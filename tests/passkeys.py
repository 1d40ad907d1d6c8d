"""What a browser hands over when it has made a passkey, without a browser: nobody can sign with it."""

import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from fido2.cose import ES256
from fido2.utils import websafe_encode
from fido2.webauthn import AttestationObject, AttestedCredentialData, AuthenticatorData

# User present and verified, credential data attached.
FLAGS = AuthenticatorData.FLAG(0x01 | 0x04 | 0x40)


def credential(name: bytes = b"a passkey of tests") -> dict[str, Any]:
    """As `PublicKeyCredential.toJSON` has it, for localhost."""
    key = ES256.from_cryptography_key(ec.generate_private_key(ec.SECP256R1()).public_key())
    data = AttestedCredentialData.create(bytes(16), name, key)
    made = AuthenticatorData.create(hashlib.sha256(b"localhost").digest(), FLAGS, 0, data)
    client = {"type": "webauthn.create", "challenge": "", "origin": "http://localhost"}
    return {
        "id": websafe_encode(name),
        "rawId": websafe_encode(name),
        "type": "public-key",
        "response": {
            "clientDataJSON": websafe_encode(json.dumps(client).encode()),
            "attestationObject": websafe_encode(bytes(AttestationObject.create("none", made, {}))),
        },
        "clientExtensionResults": {"credProps": {"rk": True}},
    }
