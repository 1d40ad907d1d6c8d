"""Every address of the site by every method, for people of every standing: what is declared, what happens."""

import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any, cast

from django.db import transaction
from django.db.models import Model as Row
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from playground import access, declared
from playground.declared import PUBLIC, SELF, Policy
from playground.models import AuditEntry, User
from tests.matrix_world import (
    ANONYMOUS,
    BUILDERS,
    FORMS,
    KEYS,
    MARK,
    PARTICULAR,
    ROLES,
    SITE,
    STRANGE_SITE,
    STRANGER,
    STRANGERS,
    World,
)

METHODS = ("GET", "POST")
# Where the management API is: its resolver holds nothing else.
BASE = "/api/v1"
PEOPLE = (ANONYMOUS, *STRANGERS, *ROLES)
REFUSED = (401, 403)


@dataclass(frozen=True)
class Route:
    """One address: its full name, its pattern's text for people, the names of its keys, its view."""

    name: str
    text: str
    keys: tuple[str, ...]
    view: Any

    @property
    def policy(self) -> Policy | None:
        return declared.of(self.view)

    @property
    def module(self) -> str:
        return str(self.view.__module__)

    def __str__(self) -> str:
        return self.name or self.text


def routes(resolver: URLResolver | None = None, namespace: str = "", before: str = "") -> Iterator[Route]:
    """All there are, those of other applications too; what is below BASE, `matrix_api` walks."""
    for one in (resolver or get_resolver()).url_patterns:
        text = before + str(one.pattern)
        if isinstance(one, URLPattern):
            name = f"{namespace}{one.name}" if one.name else ""
            yield Route(name, text, tuple(one.pattern.converters), one.callback)
        else:
            inner = f"{namespace}{one.namespace}:" if one.namespace else namespace
            if inner != "api:":
                yield from routes(one, inner, text)


class Browser:
    """Asks as one person or another, each time with what their sign-in left and nothing else."""

    def __init__(self, people: dict[str, User], *, enforce_csrf_checks: bool = False) -> None:
        self.client = Client(enforce_csrf_checks=enforce_csrf_checks, raise_request_exception=False)
        self.cookies: dict[str, SimpleCookie] = {ANONYMOUS: SimpleCookie()}
        for name, person in people.items():
            self.client.force_login(person, "django.contrib.auth.backends.ModelBackend")
            self.cookies[name] = self.client.cookies
            self.client.cookies = SimpleCookie()

    def ask(self, who: str, method: str, address: str, form: dict[str, Any]) -> HttpResponse:
        self.client.cookies = SimpleCookie(self.cookies[who].output(header="", sep=";"))
        answer: Any = getattr(self.client, method.lower())(address, form)
        return cast(HttpResponse, answer)


def gaps(
    route: Route,
    browser: Browser,
    world: World,
    people: Iterable[str] = PEOPLE,
    methods: Iterable[str] = METHODS,
) -> list[str]:
    """Everything that is wrong with one address."""
    cases = [(who, method) for who in people for method in methods if _telling(route, who, method)]
    found = [gap(route, browser, world, who, method) for who, method in cases]
    return [one for one in found if one]


def _telling(route: Route, who: str, method: str) -> bool:
    """Whether this case can tell what the others do not: nobody's role matters where nothing is declared."""
    action = route.policy and route.policy.of_method(method)
    return who in (ANONYMOUS, SITE) or action not in (None, PUBLIC)


def gap(route: Route, browser: Browser, world: World, who: str, method: str) -> str | None:
    """What is wrong with this one case, in words; None where what is declared is what happens."""
    policy = route.policy
    assert policy is not None
    answer, address, audited = asked(route, browser, world, who, method)
    why = _wrong(policy, who, method, answer, world, audited=audited)
    return why and f"{method} {address} ({route}) by {who}: {why}"


def asked(
    route: Route, browser: Browser, world: World, who: str, method: str
) -> tuple[HttpResponse, str, bool]:
    """The answer, the address, and whether a refusal was kept; the database is afterwards as it was."""
    policy = route.policy
    assert policy is not None
    with undone():
        address = _address(route, policy, world, world.people.get(who))
        form = dict(FORMS[route.name](world)) if route.name in FORMS else {}
        before = AuditEntry.objects.filter(action__startswith="refused").count()
        answer = browser.ask(who, method, address, form)
        return answer, address, AuditEntry.objects.filter(action__startswith="refused").count() > before


def foreign_gap(
    route: Route, browser: Browser, mine: World, theirs: World, method: str, form: dict[str, Any]
) -> str | None:
    """What is wrong where somebody names another team's row in a form of their own page."""
    policy = route.policy
    assert policy is not None
    if policy.of is not None:
        mine.one(policy.of)  # Made to stay, unlike what is made below.
    with undone():
        address = _address(route, policy, mine, mine.people[STRANGER])
        answer = browser.ask(STRANGER, method, address, form)
        if answer.status_code in (404, 422) and MARK.encode() not in _content(answer):
            return None
        return (
            f"{method} {address} ({route}) with {form}: {answer.status_code}, not 404 or 422: {_said(answer)}"
        )


@contextmanager
def undone() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def _address(route: Route, policy: Policy, world: World, person: User | None) -> str:
    given: dict[str, Any] = {}
    for place, key in enumerate(route.keys):
        if place == 0 and policy.of is not None:
            given[key] = getattr(_row(route.name, policy.of, world, person), key)
        else:
            made = KEYS.get(f"{route.name} {key}") or KEYS.get(key)
            assert made, f"{route}: tell tests/matrix_world.py (KEYS) what {key!r} may be in its address"
            given[key] = made(world, person)
    return reverse(route.name, kwargs=given) if route.name else _by_text(route.text, given)


def _row(name: str, kind: type[Row], world: World, person: User | None) -> Row:
    return PARTICULAR[name](world, person) if name in PARTICULAR else world.one(kind)


def _by_text(text: str, given: dict[str, Any]) -> str:
    return "/" + re.sub(r"<(?:\w+:)?(\w+)>", lambda found: str(given[found[1]]), text)


def _wrong(
    policy: Policy, who: str, method: str, answer: HttpResponse, world: World, *, audited: bool
) -> str | None:
    action = policy.of_method(method)
    status = answer.status_code
    if is_fault(status):
        return f"{status}: {raised(answer)}"
    if who == STRANGER and MARK.encode() in _content(answer):
        return f"{status}, and tells the name of another team's row"
    if PUBLIC in (policy.reads, policy.writes):
        turned_away = status == 403 or "next=" in answer.headers.get("Location", "")
        return f"{status}, though it is public" if turned_away else None
    if who == ANONYMOUS:
        return None if status in (*REFUSED, 405) or _to_sign_in(answer) else f"{status}, not to sign in first"
    if action is None:
        return None if status == 405 else f"{status}, though {method} is not declared"
    want = expected(policy, action, who)
    if action == SELF and policy.of is None:
        return None if not _to_sign_in(answer) else f"{status}, though they are signed in"
    if want is None:
        refused = status in (*REFUSED, 404) or _to_sign_in(answer)
        return f"{status}, though they may: {_said(answer)}" if refused else None
    if status != want:
        return f"{status}, not {want}"
    return (
        None
        if action == "view" or method == "GET" or audited
        else f"{status}, but the audit log does not tell of it"
    )


def is_fault(status: int) -> bool:
    """Whether something went wrong here: 502 to 507 tell that a machine elsewhere is away, or a disk full."""
    return status >= 500 and status not in (502, 503, 507)


def expected(policy: Policy, action: str, who: str) -> int | None:
    """The refusal that this person has to get; None where they may."""
    if action == SELF:
        return 404 if policy.of is not None and who != SITE else None
    if who in STRANGERS and policy.is_owned:
        return 404
    needed = access.NEEDS[action]
    if needed == access.SITE:
        return None if who in (SITE, STRANGE_SITE) else 403
    have = ROLES.get(who, access.ROLES[-1])
    return None if access.ROLES.index(have) >= [str(one) for one in access.ROLES].index(needed) else 403


def _to_sign_in(answer: HttpResponse) -> bool:
    return answer.status_code == 302 and answer.headers["Location"].split("?")[0] == reverse("sign-in")


def raised(answer: Any) -> str:
    """The exception behind a 500, and where it was raised."""
    if not getattr(answer, "exc_info", None):
        return "no exception"
    _, error, trace = answer.exc_info
    frame = traceback.extract_tb(trace)[-1]
    return f"{error!r} at {frame.filename}:{frame.lineno}"


def _content(answer: HttpResponse) -> bytes:
    """What a person would read; a stream is not read."""
    return b"" if answer.streaming else answer.content.lower()


def _said(answer: HttpResponse) -> str:
    text = re.sub(r"<[^>]+>", " ", answer.content.decode(errors="replace"))
    return re.sub(r"\s+", " ", text)[-200:]


def undeclared(found: list[Route]) -> list[str]:
    """Addresses without a policy, and kinds without a builder, each with what to do."""
    wrong = []
    for route in found:
        policy = route.policy
        if policy is None:
            wrong.append(
                f"{route.text} ({route.name}) declares no policy: give its `page` reads=, writes= and of=, "
                "or make it `public`"
            )
        elif policy.of is not None and policy.of not in BUILDERS:
            wrong.append(
                f"{route.text} is about a {policy.of.__name__}, of which the matrix has none: "
                "write its builder in tests/matrix_world.py"
            )
    return wrong
