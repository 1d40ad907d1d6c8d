"""The main job, whole: `make up` in an empty home, sign in, start, chat, promote, call, Ctrl-C, and again."""

import os
import queue
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest
from openai import OpenAI
from playwright.sync_api import Browser, expect

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.browser, pytest.mark.slow]


class Up:
    """One `make up` in a home and on a port of its own; `link` is the sign-in link it printed."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.home = home
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("SLIPWAY_")
            and key not in ("DATABASE_URL", "REDIS_URL", "MAKEFLAGS", "MAKELEVEL")
        } | {"SLIPWAY_HOME": str(home), "PORT": str(self.port)}
        self.process: subprocess.Popen[str] | None = None
        self.link = ""

    def start(self, within_s: float) -> None:
        self.process = subprocess.Popen(
            ["make", "up"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.link = _find(self.process.stdout, r"http://\S+/sign-in/\S+", within_s)

    def interrupt(self, within_s: float = 60) -> None:
        """Ctrl-C as a terminal sends it, to the whole foreground group; make itself ends by the signal."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout=within_s)

    def processes(self) -> list[psutil.Process]:
        """Every live process that belongs to this home."""
        found = []
        for process in psutil.process_iter(["pid", "status"]):
            try:
                if (
                    process.environ().get("SLIPWAY_HOME") == str(self.home)
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found


def _find(output: IO[str], pattern: str, within_s: float) -> str:
    """The first match in what a process prints; without one the test fails and shows the output."""
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(
        target=lambda: [lines.put(line) for line in output] + [lines.put("")], daemon=True
    ).start()
    seen, deadline = "", time.monotonic() + within_s
    while (left := deadline - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            break
        seen += line
        if match := re.search(pattern, line):
            return match.group(0)
        if not line:
            break
    pytest.fail(f"no {pattern} in {within_s} s; it printed:\n{seen}")


@pytest.fixture
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    instance = Up(tmp_path_factory.mktemp("whole-way"))
    yield instance
    if instance.process and instance.process.poll() is None:
        instance.interrupt()
    assert not instance.processes(), "a process outlived Ctrl-C"


def test_from_an_empty_home_to_a_production_call(up: Up, browser: Browser) -> None:
    up.start(within_s=180)
    base = f"http://127.0.0.1:{up.port}"
    page = browser.new_context().new_page()
    page.set_default_timeout(30_000)

    # Three actions to the first streamed token: open the link, Start, Send.
    page.goto(up.link)
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_role("button", name="Send").click()
    answer = page.locator(".answer").last
    expect(answer).to_contain_text(re.compile(r"\w"), timeout=120_000)
    # A small model may go on to the end of its context: no length is set on the way of a newcomer.
    expect(answer).to_have_attribute("data-state", "complete", timeout=300_000)

    # Stop one midway: the partial answer stays and is marked.
    page.get_by_role("textbox", name="Message").fill("Count from one to five hundred in words, one a line.")
    page.get_by_role("button", name="Send").click()
    second = page.locator(".answer").last
    expect(second).to_contain_text(re.compile(r"\w{2}"), timeout=60_000)
    page.get_by_role("button", name="Stop", exact=True).first.click()
    expect(second).to_have_attribute("data-state", "stopped", timeout=15_000)
    expect(second).to_contain_text(re.compile(r"\w{2}"))

    # Promote what was tried, make a key, call it with the OpenAI client.
    page.get_by_role("link", name=re.compile("Promote")).first.click()
    page.get_by_role("combobox", name="Endpoint").fill("capitals")
    page.get_by_role("button", name=re.compile("^Promote")).click()
    expect(page.locator("#endpoint .state[data-state=live]").first).to_be_visible(timeout=120_000)
    key = subprocess.run(
        [".venv/bin/python", "manage.py", "key", "test"],
        cwd=ROOT,
        env=up.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    client = OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=5, _strict_response_validation=True)
    stream = client.chat.completions.create(
        model="capitals",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=16,
        stream=True,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices).strip()

    # Ctrl-C leaves nothing; the next start brings back what ran.
    up.interrupt()
    assert not up.processes()
    up.start(within_s=60)
    again = client.with_options(base_url=f"{base}/v1", timeout=120).chat.completions.create(
        model="capitals", messages=[{"role": "user", "content": "Hello"}], max_tokens=4
    )
    assert again.choices[0].message.content is not None
