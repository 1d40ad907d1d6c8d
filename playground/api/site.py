"""The management API as a whole: its nouns, what their refusals become, its description.

`made` puts it together; `urls` mounts it with what other applications bring.
"""

from collections.abc import Iterable

from ninja import Router

from playground import (
    adapters,
    attaching,
    batches,
    conversations,
    datasets,
    deployments,
    engines,
    external,
    generation,
    hub,
    hub_models,
    jobs,
    landing,
    options,
    policy,
    prompts,
    removal,
    scorers,
    scoring,
    teams,
    webhooks,
)
from playground.api import adapters as adapters_api
from playground.api import answers, machines, people
from playground.api import batches as batches_api
from playground.api import conversations as conversations_api
from playground.api import datasets as datasets_api
from playground.api import deployments as deployments_api
from playground.api import models as models_api
from playground.api import prompts as prompts_api
from playground.api.caller import Session, Token
from playground.api.routes import Api, StrictParser

ABOUT = """What the pages do, for scripts and CI. Send `Authorization: Bearer slp-…`, a token of your account;
it acts as you, and never as more. Bodies are JSON of at most 4 MB; fields that are not described are refused.
Lists come in pages: `limit` up to 100, `after` is the `next` of the page before. Whatever is no success
answers {"error": {"code", "message", "field", "fields"}}. Requests to models go to /v1, with an API key."""

# A trouble of the Hub as a status.
HUB = {
    hub.Trouble.BAD_NAME: 422,
    hub.Trouble.UNKNOWN: 404,
    hub.Trouble.GATED: 403,
    hub.Trouble.LIMITED: 503,
    hub.Trouble.AWAY: 503,
    hub.Trouble.OFF: 503,
    hub.Trouble.FAILED: 502,
}
REFUSED: dict[type[Exception], int] = {
    adapters.AdapterRefused: 422,
    attaching.AttachRefused: 409,
    batches.BatchRefused: 409,
    conversations.ConversationRefused: 422,
    deployments.DeploymentRefused: 422,
    engines.UnknownEngine: 422,
    external.ExternalRefused: 422,
    generation.SendRefused: 409,
    hub_models.AddRefused: 422,
    jobs.JobRefused: 409,
    landing.LandingRefused: 422,
    options.OptionsRefused: 422,
    prompts.Conflict: 409,
    removal.RemoveRefused: 409,
    scorers.BadScorer: 422,
    scoring.ScoringRefused: 409,
    teams.TeamRefused: 422,
    webhooks.WebhookRefused: 422,
}


def made(others: Iterable[tuple[Router, dict[type[Exception], int]]] = ()) -> Api:
    """The whole API. `others`: routers of other applications, and what their refusals become."""
    api = Api(
        title="Slipway management API",
        version="1",
        description=ABOUT,
        auth=[Token(), Session()],
        parser=StrictParser(),
        docs_url=None,
        openapi_url=None,
        urls_namespace="api",
    )
    answers.register(api)
    answers.becomes(api, hub.HubError, lambda problem: HUB[problem.trouble])
    answers.becomes(api, policy.BadRequest, 422, field="param")
    answers.becomes(api, prompts.PromptRefused, 422, field="name")
    answers.becomes(api, datasets.DatasetRefused, _of_dataset)
    for module in (
        people,
        models_api,
        adapters_api,
        machines,
        deployments_api,
        conversations_api,
        prompts_api,
        datasets_api,
        batches_api,
    ):
        api.add_router("", module.router)
    for kind, status in REFUSED.items():
        answers.becomes(api, kind, status)
    for router, refusals in others:
        api.add_router("", router)
        for kind, status in refusals.items():
            answers.becomes(api, kind, status)
    return api


def _of_dataset(problem: datasets.DatasetRefused) -> int:
    return problem.status if problem.status in answers.STATUSES else 422
