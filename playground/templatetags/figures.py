"""Template filters for figures: bytes, durations, rates. Missing is "n/a"."""

from django import template

register = template.Library()
