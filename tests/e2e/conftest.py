"""A real server and a real Chromium, for plain functions: Playwright's sync API wants no running loop.

`server` serves this run's database: rows a test makes (with `transactional_db`) are what the browser sees.
"""

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from playground import teams
from playground.models import Conversation, User

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = [
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",  # Small in containers, where a page that fills it ends.
    "--no-first-run",
]
SYSTEM_CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def server(home: Path, django_db_setup: None) -> Iterator[str]:
    """Address of a web process in this run's home."""
    with web(home) as address:
        yield address


def brief(page: Page) -> None:
    """Let answers of the conversation that the page shows end soon: small models may go on for ever."""
    page.wait_for_url(re.compile(r"/playground/\d+/"))
    asked = Conversation.objects.filter(pk=int(page.url.rstrip("/").split("/")[-1].split("?")[0]))
    assert asked.update(parameters={"max_tokens": 24}) == 1


@contextmanager
def web(home: Path, **environment: str) -> Iterator[str]:
    """A web process of one's own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [
        sys.executable,
        "-m",
        "uvicorn",
        "playground.asgi:application",
        "--port",
        str(port),
        "--lifespan",
        "on",
    ]
    log = (home / f"web-{port}.log").open("wb")
    process = subprocess.Popen(
        line, cwd=ROOT, env=os.environ | {"PORT": str(port)} | environment, stdout=log, stderr=log
    )
    try:
        _wait_served(process, port, Path(log.name))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


def _wait_served(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return once it answers; fail with its log when it does not."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/sign-in/")
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            if process.poll() is not None:
                break
            time.sleep(0.1)
        finally:
            connection.close()
    pytest.fail(f"the server did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium: the system's where there is one, else Playwright's own."""
    arguments = [*CHROMIUM, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    path = SYSTEM_CHROMIUM if SYSTEM_CHROMIUM.exists() else None
    # While Playwright's loop runs in this thread, Django would take every ORM call for one from async code.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        watch_policy(chromium)
        yield chromium
        soon(chromium, chromium._impl_obj.close("the tests are over"))
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


# What pages did that their Content-Security-Policy forbids, as the browser reports it.
VIOLATIONS: list[str] = []
MARK = "policy: "
SOON_S = 10
REPORTING = f"""document.addEventListener("securitypolicyviolation", (event) => console.debug(
    `{MARK}${{event.effectiveDirective}} ${{event.blockedURI}} at ${{event.documentURI}} ` +
    `${{event.sourceFile}}:${{event.lineNumber}} ${{event.sample}}`));"""


def note(message: ConsoleMessage) -> None:
    """Keep what a page wrote on its console of its policy."""
    if message.text.startswith(MARK):
        VIOLATIONS.append(message.text.removeprefix(MARK))


def hear(page: Page) -> None:
    """Let what the page has to report arrive: it is written in a task of its own, before this one answers."""
    with suppress(PlaywrightError):  # Closed, or on its way elsewhere.
        soon(page, page._impl_obj.evaluate("() => new Promise((told) => setTimeout(told))", None))


def soon(owner: Browser | BrowserContext | Page, answer: Coroutine[Any, Any, Any]) -> None:
    """Wait for what Playwright itself would wait for without an end: now and then Chromium never answers.

    Seen when a context is closed, with every process idle.
    """
    try:
        owner._sync(asyncio.wait_for(answer, SOON_S))
    except TimeoutError:
        warnings.warn(f"Chromium did not answer within {SOON_S} s", stacklevel=2)


def watch_policy(browser: Browser) -> None:
    """Have every page of every context report what its policy forbade."""
    make = browser.new_context

    def new_context(*arguments: Any, **wanted: Any) -> BrowserContext:
        context = make(*arguments, **wanted)
        context.on("console", note)
        context.add_init_script(REPORTING)
        whole = context._impl_obj

        def close(**given: Any) -> None:
            for page in context.pages if wanted.get("java_script_enabled", True) else []:
                hear(page)
            soon(context, whole.close(given.get("reason")))

        context.close = close  # type: ignore[method-assign]
        return context

    browser.new_context = new_context  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def the_policy_is_kept() -> Iterator[None]:
    """No test ends well when the browser reported a violation. Tests that mean one clear the list."""
    VIOLATIONS.clear()
    yield
    assert VIOLATIONS == []


@pytest.fixture
def open_page(server: str, browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page signed in as somebody: `page = open_page(user, width=360, color_scheme="dark")`."""
    contexts: list[BrowserContext] = []

    def opened(person: User | None, *, width: int = 1280, height: int = 860, **wanted: Any) -> Page:
        context = browser.new_context(
            base_url=server, viewport={"width": width, "height": height}, reduced_motion="reduce", **wanted
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        if person is not None:
            page.goto(f"/sign-in/{teams.make_login_link(person)}")
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def held() -> Callable[[Page, str], AbstractContextManager[None]]:
    """Hold a script of a page back, to do what people do before it listens: `with held(page, "chat.js"):`."""

    @contextmanager
    def holding(page: Page, script: str) -> Iterator[None]:
        routes: list[Route] = []
        page.route(re.compile(rf"/{re.escape(script)}$"), lambda route: routes.append(route))
        yield
        assert routes, f"{script} was not asked for"
        for route in routes:
            route.continue_()

    return holding
