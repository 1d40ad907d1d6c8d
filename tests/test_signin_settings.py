"""What the environment says of signing in: providers, and what a site reachable from outside needs."""

import base64
import json
import os
import secrets
import subprocess
import sys
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings as configured
from django.test import Client
from django.urls import reverse
from django.utils.module_loading import import_string

from playground import providers
from playground.models import Membership, Team, User
from playground.providers import ProvidersRefused

ROOT = Path(__file__).parent.parent
OIDC = {
    "id": "corp",
    "name": "Corp",
    "server_url": "https://id.example",
    "client_id": "slipway",
    "secret": "x",
}


def certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) that nobody signed but itself."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "slipway.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *plain))
    return folder / "cert.pem", folder / "key.pem"


# Providers


def test_providers_come_from_text_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the two\n")
    entry = OIDC | {"secret_file": str(tmp_path / "secret"), "new_people": "all", "team": "default"}
    (tmp_path / "oidc.json").write_text(json.dumps([entry]))
    for text in (json.dumps([entry]), str(tmp_path / "oidc.json")):
        (app,) = providers.oidc(text)["APPS"]
        assert (app["provider_id"], app["secret"]) == ("corp", "of the two")
        assert app["settings"] == {
            "server_url": "https://id.example",
            "new_people": "all",
            "team": "default",
        }
    assert providers.oidc("")["APPS"] == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"server_url": "http://id.example"}, "https"),
        ({"server_url": ""}, "server_url"),
        ({"id": "Corp!"}, "letters"),
        ({"new_people": "some"}, "new_people"),
        ({"role": "king"}, "role"),
        ({"colour": "red"}, "colour"),
        ({"secret_file": "/nowhere/at/all"}, "secret_file"),
    ],
)
def test_a_wrong_provider_is_named(wrong: dict[str, str], named: str) -> None:
    with pytest.raises(ProvidersRefused, match=named):
        providers.oidc(json.dumps([OIDC | wrong]))


@pytest.mark.parametrize("text", ["[1]", "{}", "[", "/nowhere/at/all", json.dumps([OIDC, OIDC])])
def test_what_is_no_list_of_providers_is_refused(text: str) -> None:
    with pytest.raises(ProvidersRefused):
        providers.oidc(text)


@pytest.mark.parametrize("variable", ["SLIPWAY_OIDC", "SLIPWAY_SAML"])
def test_a_wrong_provider_stops_the_start(tmp_path: Path, variable: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from playground import settings"],
        cwd=ROOT,
        env={"PATH": os.defpath, "SLIPWAY_HOME": str(tmp_path), variable: '[{"id": "corp"}]'},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1 and done.stderr.startswith(f"slipway: {variable}: ")


# SAML: the pages, and answers that a key here signs in the provider's place


@pytest.fixture
def client() -> Client:
    """As browsers do, it names the host."""
    return Client(HTTP_HOST="127.0.0.1")


@pytest.fixture
def corp(settings: Any, tmp_path: Path, team: Team) -> Path:
    """A SAML provider "corp" that the site trusts with newcomers; the folder of its certificate and key."""
    cert, _ = certificate(tmp_path)
    entry = {
        "id": "corp",
        "name": "Corp",
        "entity_id": "https://id.example/saml",
        "sso_url": "https://id.example/saml/sso",
        "certificate_file": str(cert),
        "new_people": "all",
        "team": "default",
        "role": "viewer",
    }
    settings.SOCIALACCOUNT_PROVIDERS = {"saml": providers.saml(json.dumps([entry]))}
    return tmp_path


def begin(client: Client) -> str:
    """Press the button; the id of the request that the provider gets."""
    page = client.post(reverse("saml_login", args=["corp"]), {"process": "login"})
    assert page.status_code == 200
    target = page.context["target"]
    assert target.startswith("https://id.example/saml/sso?")
    packed = base64.b64decode(parse_qs(urlsplit(target).query)["SAMLRequest"][0])
    asked = zlib.decompress(packed, -15).decode()
    assert reverse("saml_acs", args=["corp"]) in asked
    return asked.partition(' ID="')[2].partition('"')[0]


def answer(folder: Path, request: str, *, name: str = "lin", sign: bool = True) -> str:
    """What the provider's page posts back: an assertion about `name`, in base 64."""
    from onelogin.saml2.utils import OneLogin_Saml2_Utils as Utils

    now = datetime.now(UTC)
    stamp, until = (f"{when:%Y-%m-%dT%H:%M:%SZ}" for when in (now, now + timedelta(minutes=5)))
    site = "http://127.0.0.1"
    acs, audience = site + reverse("saml_acs", args=["corp"]), site + reverse("saml_metadata", args=["corp"])
    assertion = f"""<saml:Assertion xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion"
 ID="_{secrets.token_hex(8)}" Version="2.0" IssueInstant="{stamp}"><saml:Issuer>https://id.example/saml</saml:Issuer><saml:Subject>
<saml:NameID Format="urn:oasis:names:tc:SAML:2.0:nameid-format:persistent">{name}-id</saml:NameID>
<saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><saml:SubjectConfirmationData
 NotOnOrAfter="{until}" Recipient="{acs}" InResponseTo="{request}"/></saml:SubjectConfirmation></saml:Subject>
<saml:Conditions NotBefore="{stamp}" NotOnOrAfter="{until}"><saml:AudienceRestriction>
<saml:Audience>{audience}</saml:Audience></saml:AudienceRestriction></saml:Conditions>
<saml:AuthnStatement AuthnInstant="{stamp}" SessionIndex="1"><saml:AuthnContext><saml:AuthnContextClassRef>
urn:oasis:names:tc:SAML:2.0:ac:classes:Password</saml:AuthnContextClassRef></saml:AuthnContext>
</saml:AuthnStatement><saml:AttributeStatement><saml:Attribute Name="http://schemas.auth0.com/nickname">
<saml:AttributeValue>{name}</saml:AttributeValue></saml:Attribute></saml:AttributeStatement></saml:Assertion>"""
    if sign:
        key, cert = (folder / "key.pem").read_text(), (folder / "cert.pem").read_text()
        assertion = Utils.add_sign(assertion, key, cert).decode()
    whole = f"""<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol"
 xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="_{secrets.token_hex(8)}" Version="2.0"
 IssueInstant="{stamp}" Destination="{acs}" InResponseTo="{request}"><saml:Issuer>https://id.example/saml</saml:Issuer>
<samlp:Status><samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></samlp:Status>
{assertion}</samlp:Response>"""
    return base64.b64encode(whole.encode()).decode()


def come_back(client: Client, said: str) -> Any:
    return client.post(
        reverse("saml_acs", args=["corp"]), {"SAMLResponse": said, "RelayState": ""}, follow=True
    )


def who(client: Client) -> int | None:
    pk = client.session.get("_auth_user_id")
    return int(pk) if pk else None


def test_saml_tells_the_provider_who_we_are(client: Client, corp: Path) -> None:
    told = client.get(reverse("saml_metadata", args=["corp"]))
    assert told.headers["Content-Type"] == "text/xml"
    assert b"EntityDescriptor" in told.content and reverse("saml_acs", args=["corp"]).encode() in told.content
    assert b"Sign in with Corp" in client.get(reverse("sign-in")).content
    assert client.get(reverse("saml_metadata", args=["nobody"])).status_code == 404


def test_saml_lets_in_whom_the_provider_signed_for(client: Client, corp: Path, team: Team) -> None:
    come_back(client, answer(corp, begin(client)))
    lin = User.objects.get(username="lin")
    assert who(client) == lin.pk and Membership.objects.get(user=lin, team=team).role == "viewer"
    again = Client(HTTP_HOST="127.0.0.1")
    come_back(again, answer(corp, begin(again)))
    assert who(again) == lin.pk and User.objects.count() == 1


def test_saml_believes_no_answer_that_is_unsigned_strange_or_not_asked_for(
    client: Client, corp: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    certificate(elsewhere)
    first = begin(client)
    for said in (
        answer(corp, first, sign=False),
        answer(elsewhere, first),
        answer(corp, "ONELOGIN_of_nobody"),
        "no base 64!",
        base64.b64encode(b"<x/>").decode(),
    ):
        come_back(client, said)
        assert who(client) is None
    assert not User.objects.exists()


# Reachable from outside


def test_nothing_is_amiss_when_deployed(home: Path, tmp_path: Path, db: None) -> None:
    cert, key = certificate(tmp_path)
    public = {
        "SLIPWAY_BIND": "0.0.0.0",
        "SLIPWAY_TLS_CERT": str(cert),
        "SLIPWAY_TLS_KEY": str(key),
        "SLIPWAY_HOSTS": "slipway.example",
        "SLIPWAY_SECRET_KEY": secrets.token_urlsafe(48),
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "DEBUG"],
        cwd=ROOT,
        env=os.environ | public,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "no issues (2 silenced)" in done.stdout + done.stderr


def test_no_middleware_costs_a_thread_hop() -> None:
    for path in configured.MIDDLEWARE:
        assert import_string(path).async_capable, path


def test_the_policy_of_pages_has_no_unsafe_source(client: Client, db: None) -> None:
    policy = client.get(reverse("sign-in")).headers["Content-Security-Policy"]
    assert "unsafe" not in policy and "*" not in policy
    assert "script-src 'self';" in policy and "style-src 'self';" in policy
