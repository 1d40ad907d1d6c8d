"""Blocks of a limit, and places among concurrent requests, granted to this process by Redis. No words here.

Redis holds, for each limit of each line of keys, one hash: which window it is of, and how much each web
process was granted in it. Each process knows its own part and says it again with every request for more, and
to a Redis that has lost everything: until all had the time for that (GRACE_S) such a Redis grants nothing.
What ended processes had been granted in a day that a lost Redis no longer knows comes from the usage rows.

Without Redis a process takes no more than its share: the limit by the number of live web processes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import ceil
from time import monotonic, time
from typing import Any

import redis.asyncio as redis
from django.conf import settings
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

# A limit is granted in so many pieces a web process, fewer towards its end.
PIECES = 16
# After this long everyone has told a new Redis what they had; each looks every TELL_S whether it is new.
GRACE_S, TELL_S = 1.5, 0.5
# How often one request waits for that.
TRIES = 3
# A Redis that does not answer is left alone for a moment.
TIMEOUT_S, REST_S = 0.3, 1.0
# What a process that does not tell any more had is forgotten after this.
SILENT_S = 5.0
# What is kept in Redis has a life only so that it does not stay for ever.
KEPT_S = 8 * 86_400

_SINCE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local since = redis.call('GET', 'slipway:limits:since')
if not since then
  since = now
  redis.call('SET', 'slipway:limits:since', now)
end
local fresh = math.max(0, since + tonumber(ARGV[1]) - now)
"""
# The seed is "" for windows that need none, "?" where it is not known yet.
# → [taken, granted to us, granted in all, ms left of the window, its number, ms to wait, 0 without a seed]
_TAKE = (
    _SINCE
    + """
local key, me, seconds, limit = KEYS[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local said, own, want, block, seed = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local window = math.floor(time[1] / seconds)
local left = (window + 1) * seconds * 1000 - now
if redis.call('HGET', key, 'window') ~= tostring(window) then
  redis.call('DEL', key)
  redis.call('HSET', key, 'window', window)
end
redis.call('EXPIRE', key, ARGV[10])
local held = tonumber(redis.call('HGET', key, me) or '0')
if said == tostring(window) and own > held then
  held = own
  redis.call('HSET', key, me, held)
end
local total, rows = 0, redis.call('HGETALL', key)
for at = 1, #rows, 2 do
  if rows[at] ~= 'window' then total = total + tonumber(rows[at + 1]) end
end
local seeded = redis.call('HEXISTS', key, 'before')
if seed == '' then seeded = 1 end
if seeded == 0 and seed ~= '?' and fresh == 0 then
  local before = math.max(0, tonumber(seed) - total)
  redis.call('HSET', key, 'before', before)
  total, seeded = total + before, 1
end
local room, taken = limit - total, 0
if fresh == 0 and seeded == 1 and want > 0 and room >= want then
  taken = math.max(want, math.min(block, math.floor(room / 2)))
  redis.call('HINCRBY', key, me, taken)
end
return {taken, held + taken, total + taken, left, window, fresh, seeded}
"""
)
# → [places that are ours now, those of others, ms to wait]
_HOLD = (
    _SINCE
    + """
local key, me, limit, own, want = KEYS[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local others, rows = 0, redis.call('HGETALL', key)
for at = 1, #rows, 2 do
  if rows[at] ~= me then
    local count, told = string.match(rows[at + 1], '(%d+):(%d+)')
    if now - tonumber(told) > tonumber(ARGV[6]) then
      redis.call('HDEL', key, rows[at])
    else
      others = others + tonumber(count)
    end
  end
end
local places = own
if fresh == 0 then places = math.max(own, math.min(want, limit - others)) end
if places == 0 then redis.call('HDEL', key, me)
else redis.call('HSET', key, me, string.format('%d:%d:%d', places, now, own)) end
redis.call('EXPIRE', key, ARGV[7])
return {places, others, fresh}
"""
)

# What was granted and not used goes back, if that window is still on.
_GIVE = """
if redis.call('HGET', KEYS[1], 'window') == ARGV[2] then redis.call('HINCRBY', KEYS[1], ARGV[1], -ARGV[3]) end
"""
_LOOK = _SINCE + "return tostring(since)"

Seed = Callable[[], Awaitable[int]]


@dataclass(slots=True)
class Purse:
    """What this process holds of one limit in the present window. Amounts are whole numbers."""

    key: str
    limit: int
    seconds: int
    left: float = 0
    """Granted and not used; below zero where answers took more than was thought."""
    granted: int = 0
    total: int = 0
    """Granted to everyone, when Redis last told."""
    window: int = -1
    until: float = float("-inf")
    """Monotonic end of the window."""
    dry: float = float("inf")
    """So much was asked of Redis in this window, and was not there."""

    def at(self, now: float) -> None:
        """Begin a new window where the old one is over."""
        if now < self.until:
            return
        if self.window < 0:
            self.window = int(time() // self.seconds)
            self.until = now + (self.window + 1) * self.seconds - time()
        else:
            gone = int((now - self.until) // self.seconds) + 1
            self.window, self.until = self.window + gone, self.until + gone * self.seconds
        self.left = self.granted = self.total = 0
        self.dry = float("inf")

    @property
    def remaining(self) -> int:
        """Of the whole limit, as far as is known here."""
        return max(0, int(self.limit - self.total + self.left))


@dataclass(slots=True)
class Places:
    """How many requests of one line of keys may run here at once, and do."""

    key: str
    limit: int
    running: int = 0
    held: int = 0


@dataclass
class Bank:
    """This process's dealings with Redis about every limit it has met."""

    boot: str
    processes: Callable[[], int]
    purses: Callable[[], list[Purse]]
    places: Callable[[], list[Places]]
    _client: Any = None
    _take: Any = None
    _hold: Any = None
    _new: Any = None
    _keeper: asyncio.Task[None] | None = None
    _away: bool = False
    _away_until: float = 0.0
    _since: bytes | None = None

    async def open(self) -> None:
        """Connects when it is first needed; begins telling."""
        self._client = redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )
        self._take, self._hold, self._new = map(self._client.register_script, (_TAKE, _HOLD, _LOOK))
        self._keeper = asyncio.create_task(self._keep(), name="limits")

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        if self._client is not None:
            for places in self.places():
                places.running = 0
            await self._try(self._tell_places)
            await self._try(self._give_back)
            await self._client.aclose()
            self._client = None

    async def _give_back(self) -> None:
        now, give = monotonic(), self._client.register_script(_GIVE)
        for purse in self.purses():
            if (left := int(purse.left)) > 0 and purse.until > now:
                await give([purse.key], [self.boot, purse.window, left])
                purse.left, purse.granted = purse.left - left, purse.granted - left

    # More of a limit

    async def refill(self, purse: Purse, amount: float, seed: Seed | None) -> None:
        """Have `amount` in the purse, if there is that much; waits out a new Redis's grace."""
        wait = await self._refill(purse, amount, seed)
        for _ in range(TRIES):
            if wait <= 0:
                return
            await asyncio.sleep(wait)
            wait = await self._refill(purse, amount, seed)

    async def _refill(self, purse: Purse, amount: float, seed: Seed | None) -> float:
        """Seconds to wait before trying again; 0 where this was all."""
        purse.at(monotonic())
        if purse.left < 0:
            # What was overdrawn is spent: it is said with what is asked now.
            purse.granted, purse.left = purse.granted + ceil(-purse.left), 0
        want = ceil(amount - purse.left)
        if want <= 0 or want >= purse.dry:
            return 0.0
        told = await self._try(lambda: self._asked(purse, want, "?" if seed else ""))
        if told is not None and seed and not told[6] and not told[5]:
            used = str(await seed())
            told = await self._try(lambda: self._asked(purse, want, used))
        if told is None:
            self._alone(purse, want)
            return 0.0
        if told[0]:
            return 0.0
        if not told[5]:
            purse.dry = want
        return told[5] / 1000

    async def _asked(self, purse: Purse, want: int, seed: str) -> list[int]:
        """Ask for `want`, and put what is granted into the purse."""
        block = max(1, purse.limit // (PIECES * self.processes()))
        told: list[int] = await self._take(
            [purse.key],
            [
                *(int(GRACE_S * 1000), self.boot, purse.seconds, purse.limit),
                *(purse.window, purse.granted, want, block, seed, KEPT_S),
            ],
        )
        taken, granted, total, left, window, *_ = told
        if window != purse.window:
            purse.left, purse.dry = 0, float("inf")
        purse.left += taken
        purse.granted, purse.total, purse.window = granted, total, window
        purse.until = monotonic() + left / 1000
        return told

    def _alone(self, purse: Purse, want: int) -> None:
        """Without Redis: up to this process's share, and never beyond what was last known to be left."""
        share = max(1, purse.limit // self.processes())
        room = min(share - purse.granted, purse.limit - max(purse.total, purse.granted))
        if room >= want:
            taken = max(want, min(room, purse.limit // (PIECES * self.processes())))
            purse.left += taken
            purse.granted += taken
            purse.total += taken

    # More places

    async def seat(self, places: Places) -> None:
        """Hold a place for one more than runs now, if there is one."""
        spare = places.limit // (PIECES * self.processes())
        while True:
            told = await self._try(lambda: self._held(places, places.running + 1 + spare))
            if told is None:
                places.held = max(places.running, places.limit // self.processes(), 1)
            if told is None or places.held > places.running or not told[2]:
                return
            await asyncio.sleep(told[2] / 1000)

    async def _held(self, places: Places, want: int) -> list[int]:
        told: list[int] = await self._hold(
            [places.key],
            [
                *(int(GRACE_S * 1000), self.boot, places.limit, places.running, want),
                *(int(SILENT_S * 1000), KEPT_S),
            ],
        )
        places.held = told[0]
        return told

    # Telling

    async def _keep(self) -> None:
        """Tell Redis of places each second, and everything to one that has lost it."""
        while True:
            await self._try(self._look)
            await self._try(self._tell_places)
            await asyncio.sleep(TELL_S)

    async def _look(self) -> None:
        """Say all again where Redis began anew since the last look."""
        since = await self._new([], [0])
        if since != self._since:
            now = monotonic()
            for purse in [one for one in self.purses() if one.until > now and one.granted]:
                await self._asked(purse, 0, "")
            self._since = since

    async def _tell_places(self) -> None:
        for places in [one for one in self.places() if one.held]:
            spare = places.limit // (PIECES * self.processes()) if places.running else 0
            await self._held(places, places.running + spare)

    async def _try[T](self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """What Redis says; None while it is away."""
        if self._client is None or monotonic() < self._away_until:
            return None
        try:
            told = await ask()
        except (RedisError, OSError) as problem:
            if not self._away:
                log.warning("Redis is away, limits fall to a local share: %s", type(problem).__name__)
            self._away, self._away_until = True, monotonic() + REST_S
            return None
        self._away = False
        return told
