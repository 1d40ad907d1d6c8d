"""How many answers each process has in flight at each replica, told through Redis: so that time is shared.

While a process has answers in flight it says so each TELL_S, and hears of the others'; it begins with its
first answer and ends by itself. What one that was killed said is forgotten after SILENT_MS.
"""

import asyncio
import logging
import secrets
from typing import Any

import redis.asyncio as redis
from django.conf import settings
from redis.exceptions import RedisError

from playground import sharing

log = logging.getLogger(__name__)

TELL_S = 0.1
SILENT_MS = 1000
KEPT_S = 60
TIMEOUT_S, REST_S = 0.3, 1.0
# With nothing in flight for so long it ends; the next answer begins it again.
IDLE_S = 5.0
ME = secrets.token_hex(8)

# → answers of others
_TELL = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[2] == '0' then redis.call('HDEL', KEYS[1], ARGV[1])
else redis.call('HSET', KEYS[1], ARGV[1], string.format('%d:%d', ARGV[2], now)) end
redis.call('EXPIRE', KEYS[1], ARGV[4])
local others, rows = 0, redis.call('HGETALL', KEYS[1])
for at = 1, #rows, 2 do
  if rows[at] ~= ARGV[1] then
    local count, told = string.match(rows[at + 1], '(%d+):(%d+)')
    if now - tonumber(told) > tonumber(ARGV[3]) then redis.call('HDEL', KEYS[1], rows[at])
    else others = others + tonumber(count) end
  end
end
return others
"""

_telling: dict[asyncio.AbstractEventLoop, "Telling"] = {}


def begun() -> None:
    """An answer begins at a replica where none of ours was: say so soon."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    if loop not in _telling:
        _telling[loop] = Telling(loop)
    _telling[loop].wake.set()


async def close() -> None:
    """End what this loop tells; what it said is forgotten soon."""
    if telling := _telling.get(asyncio.get_running_loop()):
        telling.task.cancel()
        await asyncio.gather(telling.task, return_exceptions=True)


class Telling:
    """What one event loop tells and hears, until nothing is in flight."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.wake = asyncio.Event()
        self._told: set[int] = set()
        self._away = False
        self._loop = loop
        self.task = loop.create_task(self._run(), name="shares of replicas")

    async def _run(self) -> None:
        client = redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )
        script = client.register_script(_TELL)
        try:
            while await self._needed():
                told = await self._tell(script)
                await asyncio.sleep(TELL_S if told else REST_S)
        finally:
            _telling.pop(self._loop, None)
            await client.aclose()

    async def _needed(self) -> bool:
        """Whether there is something to tell; waits for it a while."""
        if sharing.in_flight() or self._told:
            return True
        self.wake.clear()
        try:
            async with asyncio.timeout(IDLE_S):
                await self.wake.wait()
        except TimeoutError:
            return False
        return True

    async def _tell(self, script: Any) -> bool:
        """Say what is in flight, hear of the others; False while Redis is away."""
        ours = sharing.in_flight()
        try:
            for replica in {*ours, *self._told}:
                count = ours.get(replica, 0)
                said = [ME, count, SILENT_MS, KEPT_S]
                sharing.set_others(replica, int(await script([f"slipway:busy:{replica}"], said)))
                (self._told.add if count else self._told.discard)(replica)
        except (RedisError, OSError) as problem:
            self._alone(problem)
            return False
        self._away = False
        return True

    def _alone(self, problem: Exception) -> None:
        """Count as if nobody else asked."""
        for replica in sharing.in_flight():
            sharing.set_others(replica, 0)
        self._told.clear()
        if not self._away:
            log.warning("Redis is away, shares of replicas are our own: %s", type(problem).__name__)
        self._away = True
