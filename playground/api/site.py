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
    disk,
    engines,
    external,
    generation,
    hub,
    hub_models,
    imports,
    jobs,
    landing,
    options,
    own_code,
    policy,
    prompts,
    quantise,
    removal,
    scorers,
    scoring,
    secrets,
    sharing_rules,
    teams,
    uploads,
    webhooks,
)
from playground.api import adapters as adapters_api
from playground.api import answers, credentials, limits, machines, messages, people, site_people
from playground.api import batches as batches_api
from playground.api import columns as columns_api
from playground.api import comments as comments_api
from playground.api import conversations as conversations_api
from playground.api import datasets as datasets_api
from playground.api import deployments as deployments_api
from playground.api import links as links_api
from playground.api import models as models_api
from playground.api import offers as offers_api
from playground.api import own_code as own_code_api
from playground.api import plans as plans_api
from playground.api import prompts as prompts_api
from playground.api import quantise as quantise_api
from playground.api import runs as runs_api
from playground.api import sharing as sharing_api
from playground.api import uploads as uploads_api
from playground.api import votes as votes_api
from playground.api import wishes as wishes_api
from playground.api.caller import Session, Token
from playground.api.routes import Api, StrictParser

ABOUT = """What the pages do, for scripts and CI. Send `Authorization: Bearer slp-…`, a token of your account;
it acts as you, and never as more. Bodies are JSON of at most 4 MB, or the bytes of a file where that is said;
fields that are not described are refused.
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
    disk.DiskFull: 507,
    engines.UnknownEngine: 422,
    external.ExternalRefused: 422,
    generation.SendRefused: 409,
    hub_models.AddRefused: 422,
    imports.ImportRefused: 422,
    jobs.JobRefused: 409,
    landing.LandingRefused: 422,
    options.OptionsRefused: 422,
    own_code.NotAllowed: 409,
    prompts.Conflict: 409,
    quantise.QuantiseRefused: 422,
    removal.RemoveRefused: 409,
    scorers.BadScorer: 422,
    scoring.ScoringRefused: 409,
    secrets.SecretRefused: 422,
    sharing_rules.SharingRefused: 409,
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
    answers.becomes(api, landing.NotNeeded, 422, code="left_out")
    answers.becomes(api, uploads.UploadRefused, lambda problem: 422 if problem.received is None else 409)
    for module in (
        people,
        models_api,
        uploads_api,
        own_code_api,
        quantise_api,
        credentials,
        adapters_api,
        machines,
        offers_api,
        deployments_api,
        conversations_api,
        prompts_api,
        datasets_api,
        batches_api,
        sharing_api,
        columns_api,
        comments_api,
        messages,
        votes_api,
        links_api,
        runs_api,
        plans_api,
        wishes_api,
        limits,
        site_people,
    ):
        api.add_router("", module.router)
        for kind, status in getattr(module, "REFUSED", {}).items():
            answers.becomes(api, kind, status)
    for kind, status in REFUSED.items():
        answers.becomes(api, kind, status)
    for router, refusals in others:
        api.add_router("", router)
        for kind, status in refusals.items():
            answers.becomes(api, kind, status)
    return api


def _of_dataset(problem: datasets.DatasetRefused) -> int:
    return problem.status if problem.status in answers.STATUSES else 422
