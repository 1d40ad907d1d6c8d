"""Template filters about people's browsers."""

import re

from django import template

register = template.Library()

# The first that a browser's own words hold: most of them claim to be several.
BROWSERS = [
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
]
SYSTEMS = [
    ("Windows", "Windows"),
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
]


@register.filter
def browser(words: str) -> str:
    """What a browser says of itself, in short: "… (X11; Linux …) Chrome/131…" → "Chrome 131 on Linux"."""
    name = next(((mark, name) for mark, name in BROWSERS if mark in words), None)
    system = next((name for mark, name in SYSTEMS if mark in words), "")
    if name is None:
        return words[:60] or "unknown"
    version = re.search(re.escape(name[0]) + r"(\d+)", words)
    called = f"{name[1]} {version[1]}" if version and name[1] != "Safari" else name[1]
    return f"{called} on {system}" if system else called
