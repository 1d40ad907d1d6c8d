"""What a key may use, a minute and a day: requests, tokens, dollars; and how many requests at once.

A request is let in when each limit has room for what it is thought to take; once it has ended, what it truly
took is settled. Keys that replaced each other share their limits. Where the room comes from is `grants`':
mostly it is here already, and nothing is asked of anyone.

Windows are those of the clock, by UTC. Dollars need a price of the machine: what runs without one costs
nothing here. A key without a limit of its own has one on concurrent requests, KEY_CONCURRENT.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from time import monotonic
from typing import Any

import psycopg
from django.conf import settings
from django.db import DatabaseError
from psycopg_pool import PoolTimeout

from endpoints import idempotency, limit_words, routing, sql
from endpoints.grants import Bank, Places, Purse
from endpoints.limit_words import UNITS, Headers
from endpoints.table import Key

WINDOWS = {"minute": 60, "day": 86_400}
NAMES = tuple(f"{measure}_{window}" for measure in UNITS for window in WINDOWS)
CONCURRENT = "concurrent"
# Of one deployment's dollars a token, so much is taken from the newest answer.
NEWEST = 0.2
# Lines of keys remembered before idle ones are forgotten.
MOST_METERS = 10_000

# Requests, tokens, dollars.
Used = tuple[int, int, float]


@dataclass(slots=True)
class Meter:
    """A line of keys: its limits as they are now, and what this process holds of them."""

    family: int
    limits: Mapping[str, float]
    purses: dict[str, Purse]
    places: Places
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def follow(self, limits: Mapping[str, float]) -> None:
        """Take over limits that were changed meanwhile."""
        if limits != self.limits:
            fresh = _meter(self.family, limits)
            for name, purse in fresh.purses.items():
                if old := self.purses.get(name):
                    old.limit, old.dry = purse.limit, float("inf")
                    fresh.purses[name] = old
            self.purses, self.places.limit = fresh.purses, fresh.places.limit
        self.limits = limits


@dataclass(slots=True)
class Admission:
    """One request that was let in. `close` once, when it has ended."""

    meter: Meter
    deployment: int
    taken: dict[str, float]
    windows: dict[str, int]
    seated: bool = True
    """Whether it holds one of the places of concurrent requests."""

    def headers(self) -> Headers:
        return limit_words.headers(self.meter.purses)

    def close(self, *, tokens: int | None, cost: float | None, failed: bool) -> None:
        """Settle what was thought to be taken with what was; where that is not known it stays.

        A request that failed before its answer began took nothing but itself.
        """
        if self.seated:
            self.meter.places.running -= 1
        if not self.meter.purses:
            return
        truth = {"requests": 1.0, "tokens": tokens, "spend": None if cost is None else cost * UNITS["spend"]}
        for name, thought in self.taken.items():
            measure = name.partition("_")[0]
            used = 0.0 if failed and measure != "requests" else truth[measure]
            if used is not None:
                self._settle(name, thought - used)
        if tokens and cost is not None:
            _learn(self.deployment, cost * UNITS["spend"] / tokens)

    def give_back(self) -> None:
        """It was not asked after all: it took nothing, not even itself."""
        for name, thought in self.taken.items():
            self._settle(name, thought)

    def _settle(self, name: str, over: float) -> None:
        """Give back what was too much, in the window it was taken in; take what was too little, in any."""
        purse = self.meter.purses.get(name)
        if purse is not None and over:
            purse.at(monotonic())
            if over < 0 or purse.window == self.windows[name]:
                purse.left += over


_meters: dict[int, Meter] = {}
_rates: dict[int, float] = {}


def _purses() -> list[Purse]:
    return [purse for meter in _meters.values() for purse in meter.purses.values()]


def _places() -> list[Places]:
    return [meter.places for meter in _meters.values()]


_bank = Bank(routing.BOOT_ID, lambda: routing.table().processes, _purses, _places)


async def startup(
    used: Callable[[int], Awaitable[Used]] | None = None, processes: Callable[[], int] | None = None
) -> None:
    """Begin dealing with Redis. A process without a routing table says how it reads what a day has `used`,
    and how many processes there are."""
    global _used
    _used, _bank.processes = used or _used, processes or _bank.processes
    await _bank.open()


async def shutdown() -> None:
    await _bank.close()


def _meter(family: int, limits: Mapping[str, float]) -> Meter:
    purses = {}
    for name in NAMES:
        if (most := limits.get(name)) is not None:
            measure, _, window = name.partition("_")
            key = f"slipway:limit:{family}:{name}"
            purses[name] = Purse(key, int(most * UNITS[measure]), WINDOWS[window])
    own = limits.get(CONCURRENT)
    places = Places(f"slipway:places:{family}", int(own or settings.KEY_CONCURRENT))
    return Meter(family, limits, purses, places)


async def admit(key: Key, deployment: int, tokens: int) -> Admission:
    """Let a request in that may take about `tokens`, or refuse it with 429, naming the limit."""
    meter = _meter_of(key)
    await _sit(key, meter)
    if not meter.purses:
        return Admission(meter, deployment, {}, {})
    try:
        return await _take(key, meter, deployment, tokens)
    except BaseException:
        meter.places.running -= 1
        raise


async def admit_row(key: Key, deployment: int, tokens: int) -> Admission:
    """The same for a row of a batch, which takes no place: a batch goes at its own pace."""
    admission = await _take(key, _meter_of(key), deployment, tokens)
    admission.seated = False
    return admission


def _meter_of(key: Key) -> Meter:
    meter = _meters.get(key.family)
    if meter is None:
        if len(_meters) >= MOST_METERS:
            _forget_idle()
        meter = _meters[key.family] = _meter(key.family, key.limits)
    elif meter.limits is not key.limits:
        meter.follow(key.limits)
    return meter


def _forget_idle() -> None:
    """Drop what nothing runs under and whose windows are over: it is as if it had never been."""
    now = monotonic()
    for family, meter in list(_meters.items()):
        if not meter.places.running and all(purse.until < now for purse in meter.purses.values()):
            del _meters[family]


async def _sit(key: Key, meter: Meter) -> None:
    """Take a place among the concurrent requests."""
    places = meter.places
    if places.running >= places.held:
        async with meter.turn:
            if places.running >= places.held:
                await _bank.seat(places)
    if places.running >= places.held:
        raise limit_words.too_many(key.name, places)
    places.running += 1


async def _take(key: Key, meter: Meter, deployment: int, tokens: int) -> Admission:
    wanted = _wanted(meter, deployment, tokens)
    if not _holds(meter, wanted):
        async with meter.turn:
            for name, units in wanted.items():
                await _bank.refill(meter.purses[name], units, _seed(meter.family, name))
        if not _holds(meter, wanted):
            raise limit_words.too_much(key.name, meter.purses, wanted)
    for name, units in wanted.items():
        meter.purses[name].left -= units
    windows = {name: meter.purses[name].window for name in wanted}
    return Admission(meter, deployment, wanted, windows)


def _wanted(meter: Meter, deployment: int, tokens: int) -> dict[str, float]:
    """What the request is thought to take of each limit."""
    amounts = {"requests": 1.0, "tokens": float(tokens)}
    amounts["spend"] = max(1.0, tokens * _rates.get(deployment, 0.0)) if tokens else 0.0
    return {name: amounts[name.partition("_")[0]] for name in meter.purses}


def _holds(meter: Meter, wanted: Mapping[str, float]) -> bool:
    now = monotonic()
    for name, units in wanted.items():
        purse = meter.purses.get(name)
        if purse is None or (units > 0 and (now >= purse.until or purse.left < units)):
            return False
    return True


def _learn(deployment: int, rate: float) -> None:
    known = _rates.get(deployment, rate)
    _rates[deployment] = known + NEWEST * (rate - known)


async def _read(family: int) -> Used:
    async with idempotency.borrow() as connection:
        return await sql.used_today(connection, family)


_used: Callable[[int], Awaitable[Used]] = _read


def _seed(family: int, name: str) -> Callable[[], Any] | None:
    """Reads what the day has used already; a minute needs none."""
    measure, _, window = name.partition("_")
    if window != "day":
        return None

    async def used() -> int:
        try:
            requests, tokens, spend = await _used(family)
        except (DatabaseError, psycopg.Error, PoolTimeout, OSError):
            return 0
        return {"requests": requests, "tokens": tokens, "spend": ceil(spend * UNITS["spend"])}[measure]

    return used
