"""Where two configurations of the real llama.cpp part. Other engines: `test_whole_on_engines`."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from django.utils import timezone

from playground import beside, catalogue, differences, divergence, engine_client, engines
from playground.engine_client import Target
from playground.models import (
    Column,
    Configuration,
    Conversation,
    Deployment,
    Generation,
    Replica,
    Team,
    Turn,
)
from playground.orm import orm
from tests import chats, real_engines
from tests.real_engines import Running, running

pytestmark = pytest.mark.django_db(transaction=True)

PROMPTS = [
    "Say hi in one word.",
    "Write two sentences about the sea.",
    "What is the capital of France? Explain.",
    "List five animals and what they eat.",
    "Tell me a story of a small boat.",
]


@contextmanager
def started(engine: str, options: dict[str, Any]) -> Iterator[Running]:
    _, form = real_engines.demo("gguf" if "gguf" in engines.get(engine).kinds else "safetensors")
    with running(engine, catalogue.local(form), options) as live:
        yield live


def target(live: Running) -> Target:
    return Target(live.base_url, live.headers, "demo", live.adapter.name, 0)


# Two configurations of llama.cpp


def configured(chat: Conversation, live: Running, options: dict[str, Any]) -> Column:
    """A column that a running llama.cpp answers in."""
    model, form = real_engines.demo("gguf")
    row = Deployment.objects.create(team=chat.team, name=f"llama {options}", model=model, engine="llama.cpp")
    configuration = Configuration.objects.create(
        digest=f"{row.pk:064d}",
        canonical="{}",
        model=model,
        format=form,
        format_digest=form.digest,
        environment=real_engines.environment("llama.cpp"),
        engine="llama.cpp",
        options=options,
    )
    Replica.objects.create(
        deployment=row,
        configuration=configuration,
        node=real_engines.node(),
        state=Replica.State.READY,
        served_name="demo",
        port=int(live.base_url.rpartition(":")[2]),
        engine_key=live.key,
        heartbeat_at=timezone.now(),
    )
    return Column.objects.create(conversation=chat, deployment=row, position=chat.columns.count())


async def answered(column: Column, live: Running, turn: Turn) -> Generation:
    """The engine's whole answer, kept as a conversation keeps it."""
    body = real_engines.body(turn.text, max_tokens=96)
    found = await engine_client.complete(target(live), "/v1/chat/completions", body)
    choice = found["choices"][0]

    def keep() -> Generation:
        replica = column.deployment.replicas.get()
        return Generation.objects.create(
            turn=turn,
            column=column,
            replica=replica,
            configuration=replica.configuration,
            state="complete",
            text=choice["message"]["content"],
            finish_reason=choice["finish_reason"],
            usage={"completion_tokens": found["usage"]["completion_tokens"]},
            request=body,
        )

    return await orm(keep)


def test_two_kv_caches_of_llama_cpp_part_and_each_tells_by_how_much(team: Team) -> None:
    """At temperature 0 a coarser KV cache comes to another token; the same one twice to the same."""
    wholes = {"context": 1024, "threads": 1}
    coarse = wholes | {"cache_type_k": "q4_0"}
    with ExitStack() as stack:
        lives = [stack.enter_context(started("llama.cpp", options)) for options in (wholes, wholes, coarse)]
        chat = chats.conversation(team)
        columns = [
            configured(chat, live, options)
            for live, options in zip(lives, (wholes, wholes, coarse), strict=True)
        ]
        parted = [
            found
            for at, prompt in enumerate(PROMPTS)
            if (found := asyncio.run(_ask(columns, lives, prompt, at))) is not None
        ]
    assert parted, "the coarser cache never came to another token: other prompts are needed"
    for found in parted:
        print(found)
        assert found.verdict in ("tie", "no tie", "one-sided"), found.why
        assert found.at is not None
        assert len(found.sides) == 2
    assert any(found.verdict in ("tie", "no tie") for found in parted)


async def _ask(columns: list[Column], lives: list[Running], prompt: str, at: int) -> Any:
    """The divergence of the two unlike caches; None where their answers are the same."""
    try:
        turn = await orm(
            lambda: Turn.objects.create(conversation=columns[0].conversation, text=prompt, client_id=f"t{at}")
        )
        rows = [await answered(column, live, turn) for column, live in zip(columns, lives, strict=True)]
        assert differences.line(rows[0], rows[1]) == "1\u20132 identical"
        _, same, coarse = await orm(lambda: beside.answers(turn))
        seen = await beside.seen([same, coarse])
        assert seen[0].token_ids == seen[1].token_ids and seen[0].token_ids
        assert seen[0].sampled["top_k"].source == "own"
        by_token = await beside.compared(same, coarse, beside.TOKEN)
        assert (by_token.by, by_token.note) == (beside.TOKEN, "")
        if rows[1].text == rows[2].text:
            return None
        await beside.measured(same, coarse)
        return divergence.kept(await orm(lambda: Generation.objects.get(pk=rows[1].pk)), rows[2])
    finally:
        await engine_client.close()
