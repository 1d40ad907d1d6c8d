"""Why two columns' answers part: each asked once more, untimed, for the log-probabilities where they do.

Nothing is asked unless a person says so. What is found is kept on the first answer, by the second's number.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from itertools import pairwise
from typing import Any

from django.db import transaction

from playground import effects_compared, engine_client, engines, looks, margins, pictures, tokenised
from playground.differences import cut_off, first_character, told, whole
from playground.engine_client import EngineError, Target
from playground.engines.base import PATHS
from playground.margins import TIE_NATS, Divergence, Run
from playground.models import Generation
from playground.orm import orm

TOP = 20
FARTHEST = 20_000
AHEAD = 64
MEASURE_S = 120.0
KEPT = "divergence"
SILENT = "The engine sent no log-probabilities though it was asked for them."

log = logging.getLogger(__name__)


class Untold(Exception):
    """There is no verdict on these two answers; the text says why."""


async def measure(a: Generation, b: Generation, names: tuple[str, str]) -> Divergence:
    """Ask both engines once more and judge; kept. `names` is how sentences call the two."""
    try:
        found = await _measure((a, b), names)
    except Untold as problem:
        found = Divergence("n/a", str(problem))
    await orm(_keep, a.pk, b.pk, found.kept())
    return found


def kept(a: Generation, b: Generation, within: float = TIE_NATS) -> Divergence | None:
    """What was found of these two before, judged by `within` nats; None: never measured."""
    found = (a.effective.get(KEPT) or {}).get(str(b.pk))
    return margins.known(found, within) if found else None


def _keep(first: int, second: int, found: dict[str, Any]) -> None:
    with transaction.atomic():
        row = Generation.objects.select_for_update().only("effective").get(pk=first)
        row.effective[KEPT] = {**(row.effective.get(KEPT) or {}), str(second): found}
        row.save(update_fields=["effective"])


def differ(a: Generation, b: Generation) -> str:
    """Why the texts alone name no divergence, as a sentence; "" where they do."""
    if why := told(a.request, b.request):
        return why
    at = first_character(whole(a), whole(b))
    if at is None:
        return "The answers are identical."
    for one, other in ((a, b), (b, a)):
        if at >= len(whole(one)) and at < len(whole(other)) and cut_off(one):
            return "One was cut off before they part: they are the same as far as it goes."
    return ""


async def _measure(pair: tuple[Generation, Generation], names: tuple[str, str]) -> Divergence:
    """Raises Untold for every reason why no margin is looked for."""
    if why := differ(*pair):
        raise Untold(why)
    answers = (whole(pair[0]), whole(pair[1]))
    at = first_character(*answers)
    assert at is not None
    if at > FARTHEST:
        raise Untold(f"They part after {at:,} characters: a second run that long is not made.")
    await _require_same_prompt(pair, names, at)
    asked = (_run(one, at, name) for one, name in zip(pair, names, strict=True))
    first, second = await asyncio.gather(*asked, return_exceptions=True)
    for found in (first, second):
        if isinstance(found, BaseException):
            raise found
    assert isinstance(first, Run) and isinstance(second, Run)
    return margins.judge((first, second), answers, names)


async def _require_same_prompt(pair: tuple[Generation, Generation], names: tuple[str, str], at: int) -> None:
    """Both greedy, and asked by the same tokens."""
    found = [await looks.seen(one, name) for one, name in zip(pair, names, strict=True)]
    for look in found:
        if why := looks.not_greedy(look):
            raise Untold(why)
    first, second = found
    for look in found:
        if look.token_ids is None:
            raise Untold(f"The tokens of its prompt are not known for {look.name}.")
    if first.token_ids == second.token_ids:
        return
    if first.rendered == second.rendered:
        raise Untold(
            f"The same prompt is other tokens in each, so there is no tie: they part at character {at + 1:,}."
        )
    raise Untold(f"{effects_compared.prompts(first, second)} There is no tie between different prompts.")


async def _run(generation: Generation, at: int, name: str) -> Run:
    """A second run with log-probabilities; where the engine gives none, the answer's own tokens."""
    if why := await orm(_mute, generation):
        return await _retokenised(generation, why)
    target = await orm(tokenised.target_of, generation)
    if target is None:
        raise Untold(f"{name} does not run now, so it cannot be asked again: start it and measure then.")
    body = await orm(_body, generation, target)
    try:
        async with asyncio.timeout(MEASURE_S):
            if at >= len(whole(generation)):
                return await _read_whole(target, body)
            return await _read(target, body, at + AHEAD)
    except TimeoutError:
        raise Untold(f"{name} took over {MEASURE_S:g} s to answer again.") from None
    except EngineError as problem:
        raise Untold(f"{name} did not answer again: {problem.text}") from problem


def _mute(generation: Generation) -> str:
    """Why the engine tells no log-probabilities; "" where it does."""
    deployment = generation.column.deployment
    configuration = generation.configuration
    engine = configuration.engine if configuration else deployment.engine if deployment else ""
    if not engine:
        return "Its deployment was deleted."
    verdict = engines.get(engine).tells_logprobs(configuration.options if configuration else {})
    return "" if verdict.ok else verdict.why


async def _retokenised(generation: Generation, why: str) -> Run:
    found = await tokenised.tokenised(generation, whole(generation))
    if found.why or generation.reasoning:
        raise Untold(why)
    raws = [raw for _, raw in found.tokens]
    listed = [_unlikely(raw, shared=not (raw and before)) for before, raw in pairwise([b"-", *raws])]
    return Run(whole(generation), listed, not cut_off(generation), why)


def _unlikely(raw: bytes, shared: bool) -> margins.Token:
    """A token without its log-probability; one that shares a character with others is a part of one."""
    return margins.Token(margins.FRAGMENT if shared else raw.decode(errors="replace"), raw)


def _body(generation: Generation, target: Target) -> dict[str, Any]:
    """The request again, greedy, with log-probabilities, no longer than the answer was."""
    quirks = engines.get(target.engine).quirks
    left_out = {"stream_options", "max_completion_tokens", *quirks.continuous_usage}
    body = {name: value for name, value in generation.request.items() if name not in left_out}
    tokens = generation.usage.get("completion_tokens")
    body |= {"max_tokens": tokens + 1} if tokens else {}
    body |= {"temperature": 0, "logprobs": True, "top_logprobs": TOP, "stream": True}
    return pictures.inlined(body)


async def _read(target: Target, body: Mapping[str, Any], enough: int) -> Run:
    """The answer's text and tokens until it has `enough` characters; leaving it stops the engine."""
    run = Run()
    raw = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    async with engine_client.relay(target, "POST", PATHS["chat"], headers, raw) as answer:
        if answer.status != 200:
            raise engine_client.refusal(answer.status, await _first(answer.body))
        thought = ""
        async with aclosing(_choices(answer.body)) as choices:
            async for choice in choices:
                delta = choice.get("delta") or {}
                thought += str(delta.get("reasoning_content") or delta.get("reasoning") or "")
                run.text += str(delta.get("content") or "")
                run.tokens += margins.tokens(choice.get("logprobs"))
                run.ended = run.ended or choice.get("finish_reason") == "stop"
                if len(thought) + len(run.text) > enough:
                    break
    run.text = f"{thought}\n\n{run.text}" if thought else run.text
    if not run.tokens:
        run.why = SILENT
    return run


async def _read_whole(target: Target, body: Mapping[str, Any]) -> Run:
    """The answer with the token of its end, which llama.cpp leaves out of a stream."""
    found = await engine_client.complete(target, PATHS["chat"], {**body, "stream": False})
    choices = found.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    message = choice.get("message") or {}
    thought = str(message.get("reasoning_content") or message.get("reasoning") or "")
    said = str(message.get("content") or "")
    run = Run(f"{thought}\n\n{said}" if thought else said, margins.tokens(choice.get("logprobs")))
    run.ended = choice.get("finish_reason") == "stop"
    run.why = "" if run.tokens else SILENT
    return run


async def _choices(body: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any]]:
    """The first choice of each event."""
    events = engine_client.Events()
    async for chunk in body:
        for payload in events.feed(chunk):
            if payload.startswith(b"[DONE]"):
                return
            found = _event(payload)
            choices = found.get("choices")
            if isinstance(choices, list) and choices and isinstance(choices[0], dict):
                yield choices[0]


def _event(payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(payload)
    except ValueError as problem:
        raise EngineError("malformed", "The engine sent something that is not JSON.") from problem
    if not isinstance(found, dict) or found.get("error"):
        raise engine_client.refusal(500, payload)
    return found


async def _first(body: AsyncIterator[bytes]) -> bytes:
    async for chunk in body:
        return chunk
    return b""
