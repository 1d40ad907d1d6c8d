"""Every setting, from the environment, once. A bad value stops the start and names the variable."""

import ipaddress
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from environs import Env, EnvError

from playground import providers, servers

env = Env()
# Connections to PostgreSQL that a process of each command may hold; the embedded server has room for 200.
POOLS = {"web": 10, "worker": 8, "beat": 2, "up": 4, "run_replica": 2, "run_job": 2}
COMMAND = sys.argv[1] if len(sys.argv) > 1 else ""


def stop(variable: str, why: str) -> None:
    """End the start with one line that names the variable."""
    sys.exit(f"slipway: {variable}: {why}")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`, an address or a name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret_key(home: Path) -> str:
    """The key kept in the home, made at first need with mode 0600."""
    path = home / "secret_key"
    if not path.exists():
        # Written whole under another name first: whoever loses the race reads the winner's.
        with tempfile.NamedTemporaryFile("w", dir=home, prefix="secret_key") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            with suppress(FileExistsError):
                path.hardlink_to(file.name)
    return path.read_text()


def _database(url: str) -> dict[str, object]:
    """Django's DATABASES entry of a postgresql:// URL; a Unix socket is ?host=/folder."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        stop("DATABASE_URL", "must start with postgresql://")
    query = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    host = unquote(query.pop("host", "")) or parts.hostname or ""
    name = parts.path.lstrip("/")
    if not name:
        stop("DATABASE_URL", "must name a database: postgresql://user:password@host/database")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 0,
        # The pool looks before it hands one out: after a restart of PostgreSQL every pooled connection is
        # dead.
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            **{key: unquote(value) for key, value in query.items()},
            "connect_timeout": 5,
            "pool": {"min_size": 0, "max_size": DATABASE_POOL, "timeout": 10, "max_idle": 30},
        },
        "TEST": {"NAME": name},
    }


def _providers(variable: str, text: str, read: Callable[[str], dict[str, object]]) -> dict[str, object]:
    try:
        return read(text)
    except providers.ProvidersRefused as problem:
        sys.exit(f"slipway: {variable}: {problem}")


BASE_DIR = Path(__file__).resolve().parent.parent
try:
    HOME = Path(env.str("SLIPWAY_HOME", str(Path.home() / ".slipway"))).expanduser().resolve()
    PORT = env.int("PORT", 8000)
    BIND = env.str("SLIPWAY_BIND", "127.0.0.1")
    DEBUG = env.bool("SLIPWAY_DEBUG", False)
    TLS_CERT = env.str("SLIPWAY_TLS_CERT", "")
    TLS_KEY = env.str("SLIPWAY_TLS_KEY", "")
    SECRET_KEY = env.str("SLIPWAY_SECRET_KEY", "")
    ALLOWED_HOSTS: list[str] = env.list("SLIPWAY_HOSTS", [])
    NODE_NAME = env.str("SLIPWAY_NODE", "")
    NODE_ADDRESS = env.str("SLIPWAY_NODE_ADDRESS", "127.0.0.1")
    # Across machines relays speak plain HTTP only in a network called private; else they need the TLS files.
    PRIVATE_NETWORK = env.bool("SLIPWAY_PRIVATE_NETWORK", False)
    DATABASE_URL = env.str("DATABASE_URL", "")
    REDIS_URL = env.str("REDIS_URL", "")
    DATABASE_POOL = env.int("SLIPWAY_DATABASE_POOL", POOLS.get(COMMAND, 10))
    # Whether `up` provides llama.cpp and the demo model. Off where a machine serves something else.
    DEMO = env.bool("SLIPWAY_DEMO", True)
    # Times, in seconds. Tests shorten them; the README gives their meaning.
    HEARTBEAT_S = env.float("SLIPWAY_HEARTBEAT_S", 2.0)
    LOST_AFTER_S = env.float("SLIPWAY_LOST_AFTER_S", 30.0)
    SWEEP_S = env.float("SLIPWAY_SWEEP_S", 5.0)
    FROZEN_AFTER_S = env.float("SLIPWAY_FROZEN_AFTER_S", 120.0)
    LOAD_TIMEOUT_S = env.float("SLIPWAY_LOAD_TIMEOUT_S", 900.0)
    GRACE_S = env.float("SLIPWAY_GRACE_S", 10.0)
    DRAIN_S = env.float("SLIPWAY_DRAIN_S", 30.0)
    LEASE_S = env.float("SLIPWAY_LEASE_S", 10.0)
    # The Hub of models, or a mirror of it; whether it is left alone; how long a page waits for its answer.
    HF_ENDPOINT = env.str("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    HF_OFFLINE = env.bool("HF_HUB_OFFLINE", False)
    HUB_TIMEOUT_S = env.float("SLIPWAY_HUB_TIMEOUT_S", 8.0)
    # How many of a download's requests run at once, the silence after which one counts as cut, and the waits
    # before it goes on; the last repeats.
    DOWNLOADS_AT_ONCE = env.int("SLIPWAY_DOWNLOADS_AT_ONCE", 8)
    DOWNLOAD_SILENCE_S = env.float("SLIPWAY_DOWNLOAD_SILENCE_S", 30.0)
    DOWNLOAD_RETRY_S = env.list("SLIPWAY_DOWNLOAD_RETRY_S", [1.0, 2.0, 5.0, 15.0, 30.0], subcast=float)
    # Providers that vouch for people, as JSON or the path of a file with it; see `providers`.
    OIDC = env.str("SLIPWAY_OIDC", "")
    SAML = env.str("SLIPWAY_SAML", "")
    # How long browsers that came by TLS insist on it, in seconds.
    HSTS_S = env.int("SLIPWAY_HSTS_S", 3600)
    # Networks besides the public internet in which teams may name servers of others: 10.0.0.0/8, 192.168.1.7.
    EXTERNAL_NETWORKS: list[str] = env.list("SLIPWAY_EXTERNAL_NETWORKS", [])
    # Earlier secret keys: what was encrypted with one is still read, and encrypted anew with the present one.
    SECRET_KEY_FALLBACKS: list[str] = env.list("SLIPWAY_OLD_SECRET_KEYS", [])
    # The share of a disk that models may never take, and what one team's own models may take together.
    DISK_FREE = env.float("SLIPWAY_DISK_FREE", 0.1)
    TEAM_QUOTA_GB = env.float("SLIPWAY_TEAM_QUOTA_GB", 500.0)
    # What one team's files of /v1/files may take together.
    API_FILES_GB = env.float("SLIPWAY_API_FILES_GB", 10.0)
    # Networks besides the public internet whose addresses may be told that a batch is done.
    WEBHOOK_NETWORKS: list[str] = env.list("SLIPWAY_WEBHOOK_NETWORKS", [])
    # Waits before a webhook that was not taken is sent again; after the last it is given up.
    WEBHOOK_RETRY_S = env.list(
        "SLIPWAY_WEBHOOK_RETRY_S", [5.0, 30.0, 300.0, 1800.0, 7200.0, 21600.0], subcast=float
    )
    # What the datasets of one team may take together in the database.
    DATASETS_QUOTA_GB = env.float("SLIPWAY_DATASETS_QUOTA_GB", 20.0)
    # What a team, and a person's own team, may take where its row does not say; None is no limit. Storage:
    # where a team has no limit of its own each kind has the one above.
    QUOTAS: dict[str, dict[str, float | None]] = {
        kind: {
            "replicas": env.float(f"SLIPWAY_{kind.upper()}_REPLICAS", replicas),
            "gpu_hours_day": env.float(f"SLIPWAY_{kind.upper()}_GPU_HOURS", None),
            "storage_gb": env.float(f"SLIPWAY_{kind.upper()}_STORAGE_GB", storage),
            "batch_rows_day": env.float(f"SLIPWAY_{kind.upper()}_BATCH_ROWS", None),
        }
        for kind, replicas, storage in (("team", None, None), ("personal", 4.0, 50.0))
    }
    # Waits before a failed start is tried again; the last one repeats.
    RETRY_S = env.list("SLIPWAY_RETRY_S", [1.0, 5.0, 15.0, 60.0], subcast=float)
    # The gateway: a request's body, a wait for a replica on its way, a client that stops reading, the
    # silence after
    # which a waiting stream gets a comment, and how long the last routing table serves without PostgreSQL.
    BODY_TIMEOUT_S = env.float("SLIPWAY_BODY_TIMEOUT_S", 30.0)
    HOLD_S = env.float("SLIPWAY_HOLD_S", 60.0)
    STALL_S = env.float("SLIPWAY_STALL_S", 30.0)
    KEEP_ALIVE_S = env.float("SLIPWAY_KEEP_ALIVE_S", 10.0)
    TABLE_STALE_S = env.float("SLIPWAY_TABLE_STALE_S", 60.0)
    # Requests that one API key without a limit of its own may have under way.
    KEY_CONCURRENT = env.int("SLIPWAY_KEY_CONCURRENT", 256)
    # How long the record of each request of /v1 is kept.
    USAGE_DAYS = env.int("SLIPWAY_USAGE_DAYS", 400)
except EnvError as error:
    sys.exit(f"slipway: {error}")

try:
    HOME.mkdir(parents=True, exist_ok=True, mode=0o700)
except OSError as error:
    stop("SLIPWAY_HOME", f"{HOME} cannot be made: {error.strerror}")
if not NODE_NAME:
    _name = HOME / "node"
    NODE_NAME = _name.read_text().strip() if _name.exists() else "node-1"
if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,58}", NODE_NAME):
    stop("SLIPWAY_NODE", "letters, digits and hyphens in lower case, at most 59")
if not 0 < USAGE_DAYS < 100_000:
    stop("SLIPWAY_USAGE_DAYS", "must be between 1 and 99999")
if not 0 < PORT < 65536:
    stop("PORT", "must be between 1 and 65535")

PUBLIC = not is_loopback(BIND)
if PUBLIC:
    _open = f"{BIND} is reachable from outside: set"
    if not (TLS_CERT and TLS_KEY):
        stop("SLIPWAY_BIND", f"{_open} SLIPWAY_TLS_CERT and SLIPWAY_TLS_KEY first")
    if not ALLOWED_HOSTS or "*" in ALLOWED_HOSTS:
        stop("SLIPWAY_BIND", f"{_open} SLIPWAY_HOSTS to the names it is called by first")
    if not SECRET_KEY:
        stop("SLIPWAY_BIND", f"{_open} SLIPWAY_SECRET_KEY (50 random characters) first")
if bool(TLS_CERT) != bool(TLS_KEY):
    stop("SLIPWAY_TLS_CERT", "set it together with SLIPWAY_TLS_KEY")
for _variable, _file in (("SLIPWAY_TLS_CERT", TLS_CERT), ("SLIPWAY_TLS_KEY", TLS_KEY)):
    if _file and not os.access(_file, os.R_OK):
        stop(_variable, f"{_file} cannot be read")
if not (is_loopback(NODE_ADDRESS) or PRIVATE_NETWORK or TLS_CERT):
    stop(
        "SLIPWAY_NODE_ADDRESS",
        f"relays on {NODE_ADDRESS} would speak plain HTTP to other machines: set SLIPWAY_TLS_CERT and "
        "SLIPWAY_TLS_KEY, or SLIPWAY_PRIVATE_NETWORK=1 where that network is yours alone",
    )
for _variable, _networks in (
    ("SLIPWAY_EXTERNAL_NETWORKS", EXTERNAL_NETWORKS),
    ("SLIPWAY_WEBHOOK_NETWORKS", WEBHOOK_NETWORKS),
):
    for _network in _networks:
        try:
            ipaddress.ip_network(_network)
        except ValueError as problem:
            stop(_variable, f"networks like 10.0.0.0/8, with commas between them: {problem}")
if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", HF_ENDPOINT):
    stop("HF_ENDPOINT", "must be an address like https://huggingface.co, without a password in it")
SECRET_KEY = SECRET_KEY or _secret_key(HOME)
ALLOWED_HOSTS = ALLOWED_HOSTS or ["127.0.0.1", "localhost", "[::1]"]

EMBEDDED_DATABASE = not DATABASE_URL
EMBEDDED_REDIS = not REDIS_URL
_addresses = servers.addresses(HOME)
DATABASE_URL = DATABASE_URL or _addresses.database_url
REDIS_URL = REDIS_URL or _addresses.redis_url
if urlsplit(REDIS_URL).scheme not in ("redis", "rediss", "unix"):
    stop("REDIS_URL", "must start with redis://, rediss:// or unix://")
DATABASES = {"default": _database(DATABASE_URL)}

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "servestatic.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "channels",
    "django_htmx",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "allauth.socialaccount.providers.saml",
    "playground",
    "endpoints",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "playground.middleware.SecurityHeadersMiddleware",
    "playground.middleware.ActingMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "playground.urls"
ASGI_APPLICATION = "playground.asgi.application"
AUTH_USER_MODEL = "playground.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": False,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "playground.views.context.page",
            ],
            "builtins": ["playground.templatetags.figures", "playground.templatetags.forms"],
        },
    }
]
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "home"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}", "OPTIONS": given}
    for name, given in (
        ("UserAttributeSimilarityValidator", {}),
        ("MinimumLengthValidator", {"min_length": 10}),
        ("CommonPasswordValidator", {}),
        ("NumericPasswordValidator", {}),
    )
]
# Accounts come by invitation, and no mail server is needed.
ACCOUNT_ADAPTER = "playground.signing_in.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_UNIQUE_EMAIL = False
ACCOUNT_PREVENT_ENUMERATION = False
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "https" if PUBLIC else "http"
ACCOUNT_REAUTHENTICATION_TIMEOUT = 900
MFA_ADAPTER = "playground.signing_in.SecondFactorAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_ALLOW_UNVERIFIED_EMAIL = True
MFA_TOTP_ISSUER = "Slipway"
# A clock half a minute off still signs in.
MFA_TOTP_TOLERANCE = 1
SOCIALACCOUNT_ADAPTER = "playground.signing_in.ProviderAdapter"
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": _providers("SLIPWAY_OIDC", OIDC, providers.oidc),
    "saml": _providers("SLIPWAY_SAML", SAML, providers.saml),
}
# A provider's address is not kept as one of ours: it may be anybody's, and no mail is sent.
SOCIALACCOUNT_EMAIL_AUTHENTICATION = False
# allauth counts attempts in the cache. In PostgreSQL they hold for all web processes, and while Redis is
# away; without PostgreSQL nobody signs in anyway.
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "playground_cache"}
}
SESSION_COOKIE_AGE = 30 * 24 * 3600
SESSION_COOKIE_HTTPONLY = True
# Cookies ignore ports, so each home has its own names: two copies do not sign each other out.
SESSION_COOKIE_NAME = f"slipway_{servers.tag(HOME)}"
CSRF_COOKIE_NAME = f"slipway_csrf_{servers.tag(HOME)}"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC
SECURE_SSL_REDIRECT = PUBLIC
# Short, and for this name alone: it binds whatever else the machine serves by that name, on every port.
SECURE_HSTS_SECONDS = HSTS_S if PUBLIC else 0
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

STATIC_URL = "/static/"
STATIC_ROOT = HOME / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "playground.npm_files.NpmFinder",
]
SERVESTATIC_USE_FINDERS = True

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_ACKS_LATE = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_DEFAULT_QUEUE = "control"
CELERY_BEAT_SCHEDULE = {
    "reconcile": {"task": "playground.reconcile", "schedule": SWEEP_S, "options": {"expires": SWEEP_S * 2}},
    "settle": {"task": "endpoints.settle", "schedule": 1.0, "options": {"expires": 2.0}},
    "usage": {"task": "endpoints.forget_usage", "schedule": 1800.0, "options": {"expires": 1800.0}},
    "webhooks": {"task": "playground.webhooks", "schedule": 2.0, "options": {"expires": 4.0}},
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "playground.log_lines.Careful",
            "format": "%(asctime)s %(levelname)s %(name)s %(message)s",
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    # Periodic tasks come every second; their lines would bury the others. Addresses of files are signed.
    "loggers": {
        name: {"level": "WARNING"}
        for name in ("celery.beat", "celery.worker.strategy", "celery.app.trace", "httpx2")
    },
}
