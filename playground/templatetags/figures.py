"""Template filters for figures: bytes, durations, rates, counts, times, names. Missing is "n/a"."""

import math
import shlex
from datetime import datetime, timedelta
from decimal import Decimal

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

MISSING = "n/a"
Number = int | float


@register.filter(name="bytes")
def bytes_(value: Number | None) -> str:
    """1234567890 → "1.23 GB". Powers of ten, three digits."""
    if value is None or value == "":
        return MISSING
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{_digits(size)} {unit}"
        size /= 1000
    return f"{_digits(size)} TB"


@register.filter
def memory(value: Number | None) -> str:
    """Main and GPU memory, in powers of two as machines have it: 2147483648 → "2 GiB"."""
    if value is None or value == "":
        return MISSING
    size = float(value) / (1 << 20)
    return f"{_digits(size)} MiB" if abs(size) < 1000 else f"{_digits(size / 1024)} GiB"


@register.filter
def count(value: Number | None) -> str:
    """134515008 → "135 M", as parameters are named."""
    if value is None or value == "":
        return MISSING
    size = float(value)
    for unit in ("", " k", " M", " B"):
        if abs(size) < 999.5:
            return f"{_digits(size)}{unit}"
        size /= 1000
    return f"{_digits(size)} T"


@register.filter
def number(value: Number | None) -> str:
    """32768 → "32,768"; a whole number loses the fraction it has none of: 3.0 → "3"."""
    return MISSING if value is None or value == "" else f"{value:,}".removesuffix(".0")


@register.filter
def price(value: Decimal | None) -> str:
    """As it was typed: Decimal("2.4900") → "2.49"; unknown is empty."""
    return f"{value.normalize():f}" if value is not None else ""


@register.filter
def dollars(value: Number | None) -> str:
    """0.000123 → "$0.000123": three digits of what an answer cost."""
    if value is None or value == "":
        return MISSING
    if not value:
        return "$0"
    places = max(2, 2 - math.floor(math.log10(abs(value))))
    return f"${value:,.{places}f}"


@register.filter
def percent(part: Number | None, whole: Number | None) -> str:
    """Share of `whole`, without decimals: 62|percent:100 → "62 %"."""
    return MISSING if part is None or part == "" or not whole else f"{100 * part / whole:.0f} %"


@register.filter
def ms(value: Number | None) -> str:
    """Milliseconds, as TTFT is given: 41.3 → "41 ms", 2130 → "2.1 s"."""
    if value is None or value == "":
        return MISSING
    return f"{value:.0f} ms" if value < 999.5 else duration(value / 1000)


@register.filter
def nats(value: float | None) -> str:
    """A log-probability, or the difference of two, with its sign: "+0.12"."""
    return MISSING if value is None else f"{value:+.2f}".replace("-", "\u2212")


@register.filter
def rate(value: Number | None, unit: str = "tok/s") -> str:
    """96.4 → "96 tok/s"."""
    return MISSING if value is None or value == "" else f"{_digits(float(value))} {unit}"


@register.filter
def duration(value: Number | timedelta | None) -> str:
    """Seconds in words: 0.12 → "0.1 s", 48 → "48 s", 125 → "2 min 5 s", 7300 → "2 h 1 min"."""
    if value is None or value == "":
        return MISSING
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    for size, unit, smaller, subunit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit} {rest} {subunit}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


@register.filter
def ago(value: datetime | None) -> SafeString | str:
    """A moment as "3 min ago", whole on hover; the page keeps it current."""
    if value is None:
        return MISSING
    return format_html(
        '<time datetime="{}" title="{}" data-ago>{}</time>',
        value.isoformat(),
        f"{value:%Y-%m-%d %H:%M:%S} UTC",
        ago_text(timezone.now() - value),
    )


def ago_text(age: timedelta) -> str:
    seconds = age.total_seconds()
    if seconds < 10:
        return "just now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


@register.filter
def since(value: datetime | None) -> SafeString | str:
    """Time passed from a moment until now; the page counts on."""
    if value is None:
        return MISSING
    passed = duration(timezone.now() - value)
    return format_html('<time datetime="{}" data-since>{}</time>', value.isoformat(), passed)


@register.filter
def clock(value: datetime | None) -> SafeString | str:
    """A moment as a time of day, the date with it on hover: "14:03:22"."""
    if value is None:
        return MISSING
    whole = f"{value:%Y-%m-%d %H:%M:%S} UTC"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', value.isoformat(), whole, f"{value:%H:%M:%S}"
    )


@register.filter
def cut(value: object, length: int = 32) -> SafeString | str:
    """A long name cut in the middle, whole on hover and when the link around it has the focus."""
    text = str(value)
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    head = length - 1 - tail
    return format_html(
        '<span class="cut" title="{}"><span class="cut-short" aria-hidden="true">{}…{}</span>'
        '<span class="cut-whole">{}</span></span>',
        text,
        text[:head],
        text[-tail:],
        text,
    )


@register.filter
def command_line(parts: list[str]) -> str:
    """An argument list as a shell would take it, one option a line."""
    lines: list[str] = []
    for part in parts:
        if part.startswith("-") or not lines or not lines[-1].startswith("-") or " " in lines[-1]:
            lines.append(shlex.quote(part))
        else:
            lines[-1] += f" {shlex.quote(part)}"
    return " \\\n  ".join(lines)


@register.filter
def get(mapping: dict[str, object], key: str) -> object:
    """A mapping's value by a key that only the template knows."""
    return mapping.get(key, "")


@register.filter
def minus(later: datetime | None, earlier: datetime | None) -> timedelta | None:
    """The time between two moments."""
    return later - earlier if later and earlier else None


@register.filter
def same(left: object, right: object) -> bool:
    return left == right


@register.filter
def after_colon(target: str) -> str:
    """A job's target without its kind: "environment:vllm==0.32.0+cpu" → "vllm==0.32.0+cpu"."""
    return target.partition(":")[2] or target


@register.filter
def short(digest: str | None) -> str:
    """The first twelve hex digits of a digest."""
    return digest[:12] if digest else MISSING


def _digits(size: float) -> str:
    """Three significant digits without trailing zeros: 1.23, 12.3, 123."""
    if size == int(size):
        return f"{size:.0f}"
    decimals = 2 if abs(size) < 9.995 else 1 if abs(size) < 99.95 else 0
    text = f"{size:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
