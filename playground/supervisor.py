"""`make up`: starts everything of one home, keeps it running, and stops it in order.

Owns the processes web, worker and beat, web's listening socket, and the two embedded servers. Engines are
not its children: stopping them is asked of `nodes`, and after a `kill -9` they live on as long as their
runner does.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from django.conf import settings
from django.db import connections

from playground import addresses, database, demo, instance, jobs, nodes, processes, servers, teams
from playground.addresses import CannotStart
from playground.models import User
from playground.terminal import Steps

READY_S = 60.0
CHILD_STOP_S = 15.0
BACK_OFF_S = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0
LOG_BYTES = 8 * 1024 * 1024
WATCH_S = 2.0
LINK_MINUTES = 60


class CannotStop(Exception):
    """What did not stop as it should; told, and then ended by force."""


@dataclass
class Child:
    """One process that is started again when it ends, until it is told to stop."""

    name: str
    arguments: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    process: asyncio.subprocess.Process | None = None
    stopping: bool = False
    keeper: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        return settings.HOME / "logs" / f"{self.name}.log"

    async def start(self, say: Callable[[str], None]) -> None:
        await self._spawn()
        self.keeper = asyncio.create_task(self._keep(say))

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL to its whole group after a while; returns when it is gone."""
        self.stopping = True
        if self.process and self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), CHILD_STOP_S)
            except TimeoutError:
                os.killpg(self.process.pid, signal.SIGKILL)
                await self.process.wait()
        if self.keeper:
            self.keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self.keeper

    async def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(settings.BASE_DIR / "manage.py"),
                self.name,
                *self.arguments,
                env=os.environ | instance.mark(settings.HOME, self.name),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self.descriptors,
                start_new_session=True,
            )

    async def _keep(self, say: Callable[[str], None]) -> None:
        """Wait for its end and start it again, later each time unless it ran steadily."""
        failures = 0
        while True:
            started = time.monotonic()
            assert self.process is not None
            code = await self.process.wait()
            if self.stopping:
                return
            failures = 0 if time.monotonic() - started > STEADY_S else failures + 1
            pause = BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)]
            say(
                f"{self.name} ended with {_ending(code)}; it starts again in {pause:g} s. Its log: {self.log}"
            )
            await asyncio.sleep(pause)
            if self.stopping:
                return
            await self._spawn()


def _ending(code: int) -> str:
    return f"code {code}" if code >= 0 else signal.Signals(-code).name


async def run() -> None:
    """Everything from the lock to the last process stopped. Returns after SIGINT, SIGTERM or SIGHUP."""
    with instance.hold(settings.HOME, addresses.own()) as lock:
        up = Up(Steps(), lock)
        stop = _stop_event()
        starting = asyncio.create_task(up.start())
        asked = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                starting.result()
                await up.watch(asked)
        finally:
            starting.cancel()
            asked.cancel()
            await asyncio.wait({starting})
            # Refused before anything was started, as by a taken port: what an earlier run left is left alone.
            if up.children or stop.is_set():
                await up.stop()


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


class Up:
    """One run of `up`, from its first line to its last."""

    def __init__(self, steps: Steps, lock: IO[str]) -> None:
        self.steps = steps
        self.lock = lock
        self.children: list[Child] = []
        self.listeners: list[socket.socket] = []
        self.migrated = False
        self.started = time.monotonic()
        # Threads cannot be cancelled: stopping waits for them before it stops what they may be starting.
        self.threads = ThreadPoolExecutor(4, thread_name_prefix="up")

    async def start(self) -> None:
        self.steps.line(f"Slipway · home {settings.HOME} · node {settings.NODE_NAME}\n")
        (settings.HOME / "logs").mkdir(exist_ok=True, mode=0o700)
        # The terminal shows steps; what the libraries say goes where the children's logs are.
        logging.getLogger().handlers = [logging.FileHandler(settings.HOME / "logs" / "up.log")]
        await self._end_leftovers()
        self.listeners = addresses.listen()
        instance.say_address(self.lock, addresses.named(self.listeners))
        descriptors = tuple(listener.fileno() for listener in self.listeners)
        self.children = [
            Child("web", ("--fd", *map(str, descriptors)), descriptors),
            Child("worker"),
            Child("beat"),
        ]
        # They load while the servers start, and wait until the schema is there.
        for child in self.children:
            await child.start(self._tell)
        await self._start_servers()
        await self._migrate()
        node = await self._in_thread(nodes.local_node)
        await asyncio.gather(self._until_ready(), *(self._provide(*wanted) for wanted in demo.wanted(node)))
        await self._welcome()

    async def watch(self, asked: asyncio.Task[bool]) -> None:
        """Until a stop is asked for: start an embedded server again when it ended, and keep the logs
        bounded.
        """
        while not asked.done():
            await asyncio.wait({asked}, timeout=WATCH_S)
            try:
                for name in await self._in_thread(_revive_servers):
                    self._tell(f"{name} had ended; it was started again.")
                await self._in_thread(_bound_logs)
            except (servers.ServerFailed, OSError) as failure:
                self._tell(str(failure))

    async def stop(self) -> None:
        """Engines first, so that nothing is asked of a stopped process; the servers last."""
        self.steps.line("\nStopping. What runs now is started again by the next `make up`.")
        for child in self.children:
            child.stopping = True
        await asyncio.to_thread(self.threads.shutdown)
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="stop")
        if self.migrated:
            await self._stop_step("Replicas", self._in_thread(_stop_replicas))
        await self._stop_children("beat", "worker")
        if self.migrated:
            await self._stop_step("Jobs", self._in_thread(_stop_jobs))
        await self._stop_children("web")
        await self._in_thread(_end_marked)
        await self._stop_step("Servers", self._in_thread(_stop_servers))
        self.threads.shutdown()

    async def _in_thread[Result](self, call: Callable[[], Result]) -> Result:
        """Run what blocks, and give its database connection back."""

        def work() -> Result:
            try:
                return call()
            finally:
                connections.close_all()

        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    async def _end_leftovers(self) -> None:
        left = await self._in_thread(lambda: instance.marked(settings.HOME, instance.CHILDREN))
        if left:
            with self.steps.step("Recovering") as step:
                step.say(f"ending {len(left)} processes of a run that was killed")
                await self._in_thread(lambda: instance.end(left))
                step.done(f"ended {len(left)} processes of a run that was killed")

    async def _start_servers(self) -> None:
        starts = {"PostgreSQL": servers.start_postgres, "Valkey": servers.start_valkey}
        wanted = {"PostgreSQL": settings.EMBEDDED_DATABASE, "Valkey": settings.EMBEDDED_REDIS}

        async def start(name: str) -> None:
            with self.steps.step(name) as step:
                step.say("starting")
                fresh = await self._in_thread(lambda: starts[name](settings.HOME))
                step.done("started" if fresh else "ran already")

        await asyncio.gather(*(start(name) for name in starts if wanted[name]))

    async def _migrate(self) -> None:
        with self.steps.step("Database") as step:
            step.say("migrating")
            count = await self._in_thread(database.migrate)
            step.done(f"{count} migrations applied" if count else "up to date")
        self.migrated = True

    async def _until_ready(self) -> None:
        with self.steps.step("Processes") as step:
            deadline = time.monotonic() + READY_S
            while missing := await _missing():
                step.say(f"waiting for {missing}")
                if time.monotonic() > deadline:
                    raise CannotStart(
                        f"{missing} is not ready after {READY_S:.0f} s; see {settings.HOME / 'logs'}"
                    )
                await asyncio.sleep(0.1)
            step.done("web, worker and beat ready")

    async def _provide(self, name: str, ensure: Callable[[], demo.Progress]) -> None:
        """Follow one thing that a first start installs or fetches. Its failure stops nothing: the site says
        it too.
        """
        with self.steps.step(name) as step:
            progress = demo.Progress("asking", False)
            while not progress.done:
                step.say(progress.text)
                try:
                    progress = await self._in_thread(ensure)
                except Exception as failure:
                    progress = demo.Progress(f"failed: {failure}", True)
                await asyncio.sleep(0 if progress.done else 0.2)
            step.done(progress.text)

    async def _welcome(self) -> None:
        link = await self._in_thread(lambda: sign_in_link(teams.first_user()))
        seconds = time.monotonic() - self.started
        self.steps.line(
            f"\nReady in {seconds:.1f} s. Open this link to sign in:\n\n    {link}\n\n"
            f"It works once, within {LINK_MINUTES} minutes; "
            "`.venv/bin/python manage.py signin` makes another.\n"
            "Ctrl-C stops everything."
        )

    async def _stop_step(self, name: str, work: Awaitable[str | None]) -> None:
        """One step of stopping; its failure is told and does not keep the next from running."""
        try:
            with self.steps.step(name) as step:
                step.say("stopping")
                step.done(await work or "stopped")
        except Exception as failure:
            self._tell(f"{name}: {failure}")

    async def _stop_children(self, *names: str) -> None:
        for child in self.children:
            if child.name in names:
                await self._stop_step(child.name.capitalize(), child.stop())

    def _tell(self, text: str) -> None:
        self.steps.line(f"{time.strftime('%H:%M:%S')} {text}")


async def _missing() -> str:
    """What /readyz says is not there yet; empty when all is."""
    context = None
    if settings.TLS_CERT:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        reader, writer = await asyncio.open_connection(_reach(), settings.PORT, ssl=context)
        host = settings.ALLOWED_HOSTS[0]
        writer.write(f"GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), READY_S)
        writer.close()
    except (OSError, TimeoutError):
        return "web"
    states = json.loads(answer.partition(b"\r\n\r\n")[2] or b'{"web": ""}')
    return ", ".join(name for name, state in states.items() if state != "ok")


def _reach() -> str:
    """An address by which this machine reaches its own site."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.BIND, settings.BIND)


def sign_in_link(user: User) -> str:
    """A new address that signs `user` in once."""
    token = teams.make_login_link(user, LINK_MINUTES)
    # Written out, since looking it up loads every page into a process that shows none.
    running = instance.running(settings.HOME)
    return f"{running.address if running else addresses.own()}/sign-in/{token}"


def _stop_replicas() -> str:
    left = nodes.stop_local()
    if left:
        raise CannotStop(f"replicas {left} did not end in time; their processes are killed")
    return "all stopped"


def _stop_jobs() -> str:
    left = jobs.stop_local()
    if left:
        raise CannotStop(f"processes {left} of jobs did not end in time; they are killed")
    return "all stopped"


def _end_marked() -> None:
    """Whatever still carries this home's mark, as when the database was away: runners, then their engines."""
    instance.end(instance.marked(settings.HOME, instance.CHILDREN) + instance.runners(settings.HOME))
    processes.sweep(settings.HOME)


def _stop_servers() -> None:
    if settings.EMBEDDED_REDIS:
        servers.stop_valkey(settings.HOME)
    if settings.EMBEDDED_DATABASE:
        servers.stop_postgres(settings.HOME)


def _revive_servers() -> list[str]:
    """Start the embedded servers that ended; returns their names."""
    revived = []
    if settings.EMBEDDED_DATABASE and not servers.postgres_runs(settings.HOME):
        servers.start_postgres(settings.HOME)
        revived.append("PostgreSQL")
    if settings.EMBEDDED_REDIS and not servers.valkey_runs(settings.HOME):
        servers.start_valkey(settings.HOME)
        revived.append("Valkey")
    return revived


def _bound_logs() -> None:
    """Move a log that grew too long aside. Its writers append, so cutting it off under them is safe."""
    where = servers.addresses(settings.HOME)
    for log in [*(settings.HOME / "logs").glob("*.log"), where.postgres_log, where.valkey_log]:
        if log.exists() and log.stat().st_size > LOG_BYTES:
            shutil.copy2(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)
