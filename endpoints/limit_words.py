"""What is told of limits: why a request was refused, when there is room again, what is left. Pure."""

from collections.abc import Mapping
from math import ceil
from time import monotonic

from endpoints.grants import Places, Purse
from endpoints.protocol import Refusal

# What one of each is counted in: dollars by the millionth.
UNITS = {"requests": 1, "tokens": 1, "spend": 1_000_000}

Headers = list[tuple[bytes, bytes]]


def too_many(key: str, places: Places) -> Refusal:
    """No place among the requests at once."""
    most = places.limit
    text = f"{key} may run {most:,} requests at once, and does."
    if places.running < most:
        text = f"{key} may run {most:,} requests at once, and other web processes hold the rest."
    return Refusal(429, text, "rate_limit_exceeded", headers={"retry-after": "1"})


def too_much(key: str, purses: Mapping[str, Purse], wanted: Mapping[str, float]) -> Refusal:
    """Which limit has no room, and when it has again."""
    now = monotonic()
    lacking = [name for name in wanted if purses[name].left < wanted[name]]
    # What never fits is told first: waiting would not help.
    never = [name for name in lacking if wanted[name] > purses[name].limit]
    name = max(never or lacking, key=lambda one: purses[one].until, default=next(iter(wanted)))
    purse, window = purses[name], name.partition("_")[2]
    told = {header.decode(): value.decode() for header, value in headers(purses)}
    if wanted[name] > purse.limit:
        text = (
            f"This request may take about {amount(name, wanted[name])}, and {key} has "
            f"{amount(name, purse.limit)} a {window}: ask for fewer tokens with max_tokens."
        )
        return Refusal(429, text, "rate_limit_exceeded", headers={"x-should-retry": "false", **told})
    wait = max(1, ceil(purse.until - now))
    when = f"{wait} s" if wait <= 60 else duration(wait)
    text = f"{key} has used its {amount(name, purse.limit)} a {window}. Try again in {when}."
    more = {"retry-after": str(wait), **told}
    if window == "day":
        return Refusal(429, text, "insufficient_quota", headers={"x-should-retry": "false", **more})
    return Refusal(429, text, "rate_limit_exceeded", headers=more)


def dollars(value: float) -> str:
    """ "$0.05", "$2.50", "$0.000125"."""
    whole, _, rest = f"{value:,.6f}".partition(".")
    return f"${whole}.{rest.rstrip('0'):0<2}"


def amount(name: str, units: float) -> str:
    """Of a limit: "600 requests", "$0.05"."""
    measure = name.partition("_")[0]
    if measure == "spend":
        return dollars(units / UNITS["spend"])
    return f"{units:,.0f} {measure if units != 1 else measure[:-1]}"


def headers(purses: Mapping[str, Purse]) -> Headers:
    """As OpenAI has them: of requests and of tokens, the minute's where there is one."""
    found: Headers = []
    now = monotonic()
    for measure in ("requests", "tokens"):
        purse = purses.get(f"{measure}_minute") or purses.get(f"{measure}_day")
        if purse is not None:
            name = measure.encode()
            found += [
                (b"x-ratelimit-limit-" + name, b"%d" % purse.limit),
                (b"x-ratelimit-remaining-" + name, b"%d" % purse.remaining),
                (b"x-ratelimit-reset-" + name, duration(max(0.0, purse.until - now)).encode()),
            ]
    return found


def duration(seconds: float) -> str:
    """ "250ms", "12s", "6m0s", "1h0m5s"."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    whole = ceil(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{f'{hours}h' if hours else ''}{f'{minutes}m' if whole >= 60 else ''}{left}s"
