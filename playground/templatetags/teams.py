"""Template tag about whose the thing is that a page shows."""

from typing import Any

from django import template

from playground.models import Team, TeamOwned, User

register = template.Library()

# What pages call the one thing they are about.
NAMES = ("conversation", "deployment", "model", "batch", "dataset", "prompt", "endpoint")


@register.simple_tag(takes_context=True)
def another_team(context: template.Context) -> Team | None:
    """The team that owns what the page is about, where it is another of theirs than they work in now."""
    user, team = context.get("user"), context.get("team")
    found: Any = next((context[name] for name in NAMES if isinstance(context.get(name), TeamOwned)), None)
    if found is None or not isinstance(user, User) or not team or found.team_id == team.pk:
        return None
    return next((one for one in context.get("my_teams") or [] if one.pk == found.team_id), None)
