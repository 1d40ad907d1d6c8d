"""A new batch: which rows, who answers them, how; what would be sent, how long it takes and what it costs."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from playground import (
    access,
    batch_estimate,
    batch_trial,
    batches,
    columns,
    datasets,
    prompt_rows,
    sampling,
    webhooks,
)
from playground.batch_estimate import Estimate
from playground.columns import Choice
from playground.models import DatasetRow, DatasetVersion, Model, PromptVersion, Team, User
from playground.prompt_texts import PromptRefused
from playground.views.conversations import asking_of
from playground.views.request import Request, team_of

PAGE = "playground/batch_new.html"
HTTP_UNPROCESSABLE = 422
VERSIONS, PREVIEWED = 200, 2
TASKS = (Model.Task.CHAT, Model.Task.COMPLETION, Model.Task.EMBEDDING)


@dataclass
class Form:
    """What was typed, as far as it makes sense; `errors` by field, with a sentence each."""

    name: str
    version: DatasetVersion | None
    chosen: list[Choice]
    parameters: dict[str, Any]
    # What a column has of its own, by the value of its choice: as typed, and as far as it makes sense.
    own_typed: dict[str, str] = field(default_factory=dict)
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    webhook: str = ""
    prompt: PromptVersion | None = None
    errors: dict[str, str] = field(default_factory=dict)

    def parameters_of(self, choice: Choice) -> dict[str, Any] | None:
        """Those of its column: its own over everybody's; None where it has none of its own."""
        own = self.own.get(choice.value)
        return {**self.parameters, **own} if own else None


@never_cache
@require_http_methods(["GET", "POST"])
def page(request: Request) -> HttpResponse:
    """The form; ?version= and ?deployment= fill it in. POST begins the batch, or shows what is wrong."""
    team = team_of(request)
    if request.method == "GET":
        return render(
            request, PAGE, _context(team, request.GET, _read(request.user, team, request.GET), request)
        )
    access.require(request.user, "chat", team)
    form = _read(request.user, team, request.POST)
    _require(form)
    _require_running(form, request.user, team)
    if not form.errors and form.version:
        wanted = [_column(form, one) for one in form.chosen]
        try:
            batch = prompt_rows.begin(
                team,
                request.user,
                form.name,
                form.version,
                wanted,
                form.parameters,
                prompt=form.prompt,
                webhook=form.webhook,
            )
            return redirect("batch", batch.pk)
        except datasets.DatasetRefused as refusal:
            form.errors["prompt"] = f"Line {refusal.line}: {refusal}" if refusal.line else str(refusal)
        except (batches.BatchRefused, access.Refused) as refusal:
            form.errors[""] = str(refusal)
    return render(request, PAGE, _context(team, request.POST, form, request), status=HTTP_UNPROCESSABLE)


@require_POST
def estimate(request: Request) -> HttpResponse:
    """How long it would take and what would be sent, as far as the form is filled in. Changes nothing."""
    team = team_of(request)
    form = _read(request.user, team, request.POST)
    return render(request, f"{PAGE}#estimate", _estimated(form) | {"wrong": form.errors})


@require_POST
async def trial(request: Request) -> HttpResponse:
    """The same by rows that are really asked, of all chosen deployments side by side."""
    form = await sync_to_async(_tried)(request)
    context = await sync_to_async(_estimated)(form) | {"wrong": form.errors}
    if form.version and not form.errors:
        version = form.version
        found = await asyncio.gather(
            *(
                batch_trial.run(
                    version,
                    one.deployment,
                    one.adapter,
                    form.parameters_of(one) or form.parameters,
                    form.prompt,
                )
                for one in form.chosen
            )
        )
        parts = [one.of(version.row_count) for one in found]
        context |= _parts(form, parts)
    return await sync_to_async(render)(request, f"{PAGE}#estimate", context)


def _tried(request: Request) -> Form:
    """The form of a trial. It asks engines, so it is for those who may."""
    team = team_of(request)
    access.require(request.user, "chat", team)
    form = _read(request.user, team, request.POST)
    _require(form)
    return form


# The form


def _read(user: User, team: Team, typed: QueryDict) -> Form:
    """What is typed; a version or deployment that is none of the team's is as if not chosen."""
    known = {choice.value: choice for choice in _choices(team)}
    key = typed.get("version", "")
    version = _versions(team).filter(pk=key).first() if key.isdecimal() and len(key) < 19 else None
    form = Form(
        name=typed.get("name", "").strip()[:200],
        version=version,
        chosen=[known[value] for value in dict.fromkeys(typed.getlist("deployment")) if value in known],
        parameters={},
        webhook=typed.get("webhook", "").strip(),
        prompt=prompt_rows.of_team(team, user, typed.get("prompt", "")),
    )
    if typed.get("prompt") and form.prompt is None:
        form.errors["prompt"] = "The library has no such prompt any more."
    _check_prompt(form)
    try:
        form.parameters = sampling.read(_texts(typed))
    except sampling.BadParameters as problem:
        form.errors |= problem.fields
    _read_own(form, typed)
    return form


def _check_prompt(form: Form) -> None:
    """Whether the table fills the prompt's variables: told at once, before anything is asked."""
    if form.prompt is None or form.version is None:
        return
    try:
        prompt_rows.check(form.version, form.prompt)
    except PromptRefused as problem:
        form.errors["prompt"] = str(problem)


def _read_own(form: Form, typed: QueryDict) -> None:
    """What columns have of their own: of those chosen only, but shown again for all."""
    chosen = {one.value for one in form.chosen}
    for field_name, text in typed.items():
        value = field_name.removeprefix("own-")
        if value == field_name or not str(text).strip():
            continue
        form.own_typed[value] = str(text)[:500]
        if value in chosen:
            try:
                form.own[value] = sampling.pairs(str(text))
            except ValueError as problem:
                form.errors[field_name] = str(problem)


def _column(form: Form, choice: Choice) -> dict[str, Any]:
    """As `batches.begin` takes it."""
    found = {"deployment": choice.deployment, "adapter": choice.adapter}
    own = form.parameters_of(choice)
    return found if own is None else found | {"parameters": own}


def _texts(typed: QueryDict) -> dict[str, str]:
    """The parameters as typed."""
    return {one.name: str(typed.get(one.name, "")) for one in sampling.PARAMETERS}


def _require(form: Form) -> None:
    """What a batch needs, and an address that may be told of its end."""
    try:
        form.webhook = webhooks.check(form.webhook) if form.webhook else ""
    except webhooks.WebhookRefused as refusal:
        form.errors["webhook"] = str(refusal)
    if form.version is None:
        form.errors["version"] = "Choose the rows."
    if not form.chosen:
        form.errors["deployment"] = "Choose who answers."


def _require_running(form: Form, user: User, team: Team) -> None:
    """A stopped deployment is started by who may; whoever may not asks an operator first."""
    stopped = [one.deployment.name for one in form.chosen if one.state == "stopped"]
    if stopped and not access.can(user, "start", team):
        words = (
            "is stopped, and starting it needs"
            if len(stopped) == 1
            else "are stopped, and starting them needs"
        )
        form.errors["deployment"] = (
            f"{' and '.join(stopped)} {words} an operator: ask beside, and begin once it runs."
        )


def _versions(team: Team) -> Any:
    rows = DatasetVersion.objects.filter(dataset__team=team, complete=True, row_count__gt=0)
    return rows.select_related("dataset").order_by("-pk")


def _choices(team: Team) -> list[Choice]:
    """Whoever answers rows: models that write, and those that embed."""
    return [choice for task in TASKS for choice in columns.choices(team, task)]


def _context(team: Team, typed: QueryDict, form: Form, request: Request) -> dict[str, Any]:
    return {
        **_estimated(form),
        "form": form,
        "errors": form.errors,
        "versions": _versions(team)[:VERSIONS],
        "choices": [
            (choice, form.own_typed.get(choice.value, ""), form.errors.get(f"own-{choice.value}", ""))
            for choice in _choices(team)
        ],
        "paired": sampling.PAIRED,
        "prompts": prompt_rows.choices(team, request.user),
        "prompt": str(form.prompt.pk) if form.prompt else "",
        "values": {one.value for one in form.chosen},
        "fields": sampling.typed(_texts(typed), ()),
        "may": access.can(request.user, "chat", team),
        **asking_of(request, team),
    }


def _estimated(form: Form) -> dict[str, Any]:
    """By earlier answers, and what the first rows become."""
    version = form.version
    parts = [
        batch_estimate.of(one.deployment, one.adapter, version.row_count) if version else Estimate()
        for one in form.chosen
    ]
    rows = DatasetRow.objects.filter(version=version).order_by("number")[:PREVIEWED] if version else []
    return {
        "form": form,
        "previews": [(row, _sent(row, form)) for row in rows],
        **_parts(form, parts),
    }


def _parts(form: Form, parts: list[Estimate]) -> dict[str, Any]:
    return {"parts": list(zip(form.chosen, parts, strict=True)), "whole": batch_estimate.whole(parts)}


def _sent(row: DatasetRow, form: Form) -> str:
    """The request of a row as far as it is the same for every deployment, cut to what a page shows."""
    body = row.body
    if form.prompt is not None and "prompt" not in form.errors:
        try:
            body = prompt_rows.body(row.cells, form.prompt)
        except PromptRefused as problem:
            return f"Line {row.line}: {problem}"
    sent = {"model": "…", **body, **form.parameters}
    return json.dumps(sent, ensure_ascii=False, indent=2)[:4000]
