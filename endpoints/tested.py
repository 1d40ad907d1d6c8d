"""The prompt that a release was tested with: named by people, suggested from what the conversations used."""

import re
from collections.abc import Iterable

from django.db.models import Count
from django.urls import reverse

from endpoints.models import Release
from endpoints.promotion import PromotionRefused
from playground.models import Deployment, Prompt, PromptVersion, Shared, Team
from playground.prompts import Use

SUGGESTED = 10
_NUMBERED = re.compile(r"(.+?)(?:\s+v|@)([0-9]{1,9})")


def find(team: Team, text: str) -> PromptVersion | None:
    """What "support-triage v7", "support-triage@7" or "support-triage" (its newest) names; "" names none."""
    text = text.strip()
    if not text:
        return None
    number, prompt = 0, _prompt(team, text)
    if prompt is None and (match := _NUMBERED.fullmatch(text)):
        number, prompt = int(match[2]), _prompt(team, match[1])
    if prompt is None:
        raise PromotionRefused(f"No prompt that the team may read is called {text[:80]!r}.", "prompt")
    version = prompt.versions.filter(number=number or prompt.head).first()
    if version is None:
        raise PromotionRefused(
            f"{prompt.name} has no version {number}: v{prompt.head} is its newest.", "prompt"
        )
    return version


def _prompt(team: Team, name: str) -> Prompt | None:
    """Not a private one: keys are the team's, and do not reach it."""
    return Prompt.objects.filter(team=team, name=name).exclude(sharing=Shared.Sharing.PRIVATE).first()


def suggested(deployment: Deployment) -> list[PromptVersion]:
    """The versions that conversations with the deployment used, the most used first."""
    rows = PromptVersion.objects.filter(
        prompt__team=deployment.team, conversations__columns__deployment=deployment
    )
    rows = rows.exclude(prompt__sharing=Shared.Sharing.PRIVATE)
    rows = rows.select_related("prompt").annotate(uses=Count("conversations", distinct=True))
    return list(rows.order_by("-uses", "-id")[:SUGGESTED])


def uses(prompt: Prompt) -> Iterable[Use]:
    """The releases that name a version of the prompt: they keep it."""
    rows = Release.objects.filter(prompt_version__prompt=prompt).select_related("endpoint", "prompt_version")
    for row in rows.order_by("-id"):
        assert row.prompt_version is not None
        address = reverse("endpoints:detail", args=[row.endpoint.name])
        title = f"{row.endpoint.name}, release {row.number}"
        yield Use(row.prompt_version.number, "endpoint", title, address, holds=True)
