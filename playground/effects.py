"""What an engine was really asked: the body, what it ignored, what it added, what its template made of it."""

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings

from playground import deployments, engine_client, engines, pictures
from playground.engine_client import EngineError, Target
from playground.engines.base import Rendered
from playground.models import Generation
from playground.orm import orm

LOOK_S = 10.0
log = logging.getLogger(__name__)


async def look(generation: Generation) -> dict[str, Any]:
    """{"body", "ignored", "added", "rendered", "token_ids", "by"}; None where it is not known.

    `by` says who rendered: "engine" or "tokenizer". Asked once, then kept on the row.
    """
    known = dict(generation.effective)
    if "rendered" not in known and "messages" in generation.request:
        known |= await _ask(generation)
        if known.get("rendered") is not None:
            await orm(_keep, generation.pk, known)
    names = ("added", "rendered", "token_ids", "by")
    return {"body": generation.request, "ignored": known.get("ignored", [])} | {
        n: known.get(n) for n in names
    }


async def _ask(generation: Generation) -> dict[str, Any]:
    target = await orm(_target, generation.pk)
    found: dict[str, Any] = {}
    rendered, by = None, "engine"
    if target is not None:
        adapter, ask = engines.get(target.engine), engine_client.asking(target)
        try:
            async with asyncio.timeout(LOOK_S):
                rendered = await adapter.render(ask, await orm(pictures.inlined, generation.request))
        except (EngineError, TimeoutError, KeyError, TypeError) as problem:
            log.info("The effective request of generation %d is not known: %s", generation.pk, problem)
    if rendered is None and (folder := await orm(_folder, generation.pk)):
        rendered, by = await asyncio.to_thread(_by_tokenizer, folder, generation.request), "tokenizer"
    if rendered is not None:
        ids = None if rendered.token_ids is None else list(rendered.token_ids)
        found |= {"rendered": rendered.prompt, "token_ids": ids, "by": by}
        found["added"] = {k: v for k, v in rendered.sampling.items() if k not in generation.request} or None
    return found


def _keep(pk: int, effective: dict[str, Any]) -> None:
    Generation.objects.filter(pk=pk).update(effective=effective)


def _target(pk: int) -> Target | None:
    """A ready replica of the configuration that answered."""
    row = Generation.objects.select_related("replica__deployment").get(pk=pk)
    if row.replica is None:
        return None
    ready = deployments.ready_replicas(row.replica.deployment)
    same = [replica for replica in ready if replica.configuration_id == row.configuration_id]
    try:
        return engine_client.target(same[0]) if same else None
    except EngineError:
        return None


def _folder(pk: int) -> Path | None:
    """The folder with the model's own tokenizer, where this machine has one."""
    row = Generation.objects.select_related("configuration__format").get(pk=pk)
    if row.configuration is None:
        return None
    folder = settings.HOME / "models" / row.configuration.format.path
    return folder if (folder / "tokenizer_config.json").is_file() else None


def _by_tokenizer(folder: Path, body: dict[str, Any]) -> Rendered | None:
    """Render with transformers, imported at first need. No code of the model's is run."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        render = partial(tokenizer.apply_chat_template, body["messages"], add_generation_prompt=True)
        prompt = render(tokenize=False)
        return Rendered(str(prompt), tuple(tokenizer.encode(prompt, add_special_tokens=False)))
    except (OSError, ValueError, KeyError) as problem:
        log.info("The tokenizer in %s cannot render: %s", folder.name, problem)
        return None
