"""What the keys page tells of limits: how much of each is used now.

Minutes and days are counted from the records of requests, which are some seconds old; requests at once from
what web processes tell Redis each second. Nothing here decides: that is `limits`'.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import redis
from django.conf import settings

from endpoints import keys, limit_words, limits, sql, usage_report
from endpoints.grants import SILENT_S
from endpoints.models import ApiKey


@dataclass(frozen=True)
class Line:
    """One limit of a key: "120 of 600", in what, and how much of it that is. Unknown is None."""

    title: str
    used: str
    limit: str
    percent: int | None

    @property
    def words(self) -> str:
        """What stands behind the amounts, which say dollars themselves: "requests a day", "a day"."""
        return self.title.removeprefix("Dollars ").lower()


def lines(rows: Iterable[ApiKey]) -> dict[int, list[Line]]:
    """By key: its limits and what is used of them, with the keys that share them."""
    limited = {key: key.family or key.pk for key in rows if key.limits}
    if not limited:
        return {}
    used = _used(limited.values())
    running = _running([line for key, line in limited.items() if limits.CONCURRENT in key.limits])
    found = {}
    for key, line in limited.items():
        amounts: dict[str, float | None] = {**used.get(line, {})}
        amounts[limits.CONCURRENT] = None if running is None else running.get(line, 0)
        names = [name for name in keys.LIMITS if name in key.limits]
        found[key.pk] = [_line(name, key.limits[name], amounts.get(name, 0)) for name in names]
    return found


def _line(name: str, limit: float, used: float | None) -> Line:
    percent = None if used is None else min(100, round(used / limit * 100))
    said = "n/a" if used is None else _said(name, used)
    return Line(keys.LIMITS[name][0], said, _said(name, limit), percent)


def _said(name: str, value: float) -> str:
    if name.startswith("spend"):
        return limit_words.dollars(value)
    return f"{int(value):,}"


def _used(lines_of_keys: Iterable[int]) -> dict[int, dict[str, float]]:
    """By line of keys and name of limit: what this minute and this day took."""
    rows = usage_report.query(sql.USED, [list(lines_of_keys)])
    return {row["line"]: {name: row[name] or 0 for name in limits.NAMES} for row in rows}


def _running(lines_of_keys: list[int]) -> dict[int, int] | None:
    """By line of keys: requests under way; None while Redis is away."""
    if not lines_of_keys:
        return {}
    client = redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=0.3, socket_timeout=0.3)
    try:
        with client, client.pipeline(transaction=False) as asked:
            asked.time()
            for line in lines_of_keys:
                asked.hvals(f"slipway:places:{line}")
            (seconds, _), *told = asked.execute()
    except (redis.RedisError, OSError):
        return None
    return {line: _sum(values, seconds) for line, values in zip(lines_of_keys, told, strict=True)}


def _sum(values: Iterable[bytes], now_s: int) -> int:
    """Of "places:ms:running" of each web process that tells."""
    parts = [value.decode().split(":") for value in values]
    return sum(int(running) for _, told, running in parts if now_s - int(told) / 1000 < SILENT_S + 1)
