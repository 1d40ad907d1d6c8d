"""Who else may vouch for a person: the providers that SLIPWAY_OIDC and SLIPWAY_SAML name.

Reads their JSON into what allauth wants. Knows nothing about people, requests or the database.
"""

import ipaddress
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROLES = ("viewer", "member", "operator", "admin")
COMMON = {"id", "name", "new_people", "team", "role"}
OIDC = COMMON | {
    "server_url",
    "client_id",
    "secret",
    "secret_file",
    "scope",
    "uid_field",
    "token_auth_method",
}
SAML = COMMON | {
    "metadata_url",
    "entity_id",
    "sso_url",
    "slo_url",
    "certificate_file",
    "attributes",
    "advanced",
}


class ProvidersRefused(Exception):
    """A setting that names providers is wrong; the text says where."""


def oidc(text: str) -> dict[str, Any]:
    """allauth's "openid_connect" of SLIPWAY_OIDC: a JSON list, or the path of a file with one."""
    apps = [_oidc_app(entry) for entry in _entries(text, OIDC, {"server_url", "client_id"})]
    return {"APPS": apps, "OAUTH_PKCE_ENABLED": True}


def saml(text: str) -> dict[str, Any]:
    """allauth's "saml" of SLIPWAY_SAML."""
    return {"APPS": [_saml_app(entry) for entry in _entries(text, SAML, {"entity_id"})]}


def _entries(text: str, known: set[str], needed: set[str]) -> list[dict[str, Any]]:
    entries = _loaded(text.strip())
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ProvidersRefused("a JSON list of objects, one a provider, or the path of a file with one")
    for entry in entries:
        _check(entry, known, needed | {"id", "name"})
    if len({entry["id"] for entry in entries}) < len(entries):
        raise ProvidersRefused("each provider needs an id of its own")
    return entries


def _loaded(text: str) -> Any:
    if not text:
        return []
    try:
        return json.loads(text if text.startswith(("[", "{")) else Path(text).expanduser().read_text())
    except OSError as problem:
        raise ProvidersRefused(f"{text} cannot be read: {problem.strerror}") from problem
    except ValueError as problem:
        raise ProvidersRefused(f"not JSON: {problem}") from problem


def _check(entry: dict[str, Any], known: set[str], needed: set[str]) -> None:
    if wrong := set(entry) - known:
        raise ProvidersRefused(f"{', '.join(sorted(wrong))} is none of {', '.join(sorted(known))}")
    if missing := {key for key in needed if not isinstance(entry.get(key), str) or not entry[key]}:
        raise ProvidersRefused(f"a provider lacks {', '.join(sorted(missing))}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", entry["id"]):
        raise ProvidersRefused(f"id {entry['id']!r}: letters, digits and hyphens in lower case, at most 40")
    if entry.get("new_people", "invited") not in ("invited", "all"):
        raise ProvidersRefused(f"new_people of {entry['id']}: invited or all")
    if entry.get("role", "member") not in ROLES:
        raise ProvidersRefused(f"role of {entry['id']}: one of {', '.join(ROLES)}")


def _newcomers(entry: dict[str, Any]) -> dict[str, str]:
    """Who gets an account by this provider, and into which team besides their own they come."""
    return {key: entry[key] for key in ("new_people", "team", "role") if key in entry}


def _oidc_app(entry: dict[str, Any]) -> dict[str, Any]:
    _secure(entry["server_url"], "server_url", entry["id"])
    settings = {
        key: entry[key] for key in ("server_url", "scope", "uid_field", "token_auth_method") if key in entry
    }
    return {
        "provider_id": entry["id"],
        "name": entry["name"],
        "client_id": entry["client_id"],
        "secret": _secret(entry),
        "settings": settings | _newcomers(entry),
    }


def _secret(entry: dict[str, Any]) -> str:
    if "secret_file" not in entry:
        return str(entry.get("secret", ""))
    try:
        return Path(entry["secret_file"]).expanduser().read_text().strip()
    except OSError as problem:
        raise ProvidersRefused(
            f"secret_file of {entry['id']} cannot be read: {problem.strerror}"
        ) from problem


def _saml_app(entry: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {"idp": _idp(entry), "advanced": entry.get("advanced", {}) | _ADVANCED}
    if "attributes" in entry:
        settings["attribute_mapping"] = entry["attributes"]
    return {
        "provider_id": entry["entity_id"],
        "name": entry["name"],
        "client_id": entry["id"],
        "settings": settings | _newcomers(entry),
    }


# Unsigned answers are not believed, nor such as were not asked for.
_ADVANCED = {
    "want_assertion_signed": True,
    "reject_idp_initiated_sso": True,
    "strict": True,
    "allow_single_label_domains": True,
}


def _idp(entry: dict[str, Any]) -> dict[str, str]:
    idp: dict[str, str] = {
        key: entry[key] for key in ("entity_id", "metadata_url", "sso_url", "slo_url") if key in entry
    }
    for key in ("metadata_url", "sso_url", "slo_url"):
        if key in idp:
            _secure(idp[key], key, entry["id"])
    if "metadata_url" in idp:
        return idp
    if "sso_url" not in idp or "certificate_file" not in entry:
        raise ProvidersRefused(f"{entry['id']} needs metadata_url, or sso_url and certificate_file")
    try:
        idp["x509cert"] = Path(entry["certificate_file"]).expanduser().read_text()
    except OSError as problem:
        raise ProvidersRefused(
            f"certificate_file of {entry['id']} cannot be read: {problem.strerror}"
        ) from problem
    return idp


def _secure(address: str, key: str, of: str) -> None:
    """Only https, or this machine: whoever answers in a provider's place is let in as anybody."""
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return
    raise ProvidersRefused(f"{key} of {of} must start with https://")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
