"""Four real engines on the same weights, by a plan, since they do not fit together; where they part.

Margins of real engines that run: `test_differences_on_engines`.
"""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from playground.models import Conversation, Deployment, Generation, Job, Node, Replica, Team, User
from tests import chats, real_engines
from tests.fleet import Fleet, assert_sound, until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.engines,
    pytest.mark.django_db(transaction=True),
]
# As in production: a busy machine must not take a slow engine for a frozen one.
WORKER = {
    "SLIPWAY_LOST_AFTER_S": "30",
    "SLIPWAY_FROZEN_AFTER_S": "120",
    "SLIPWAY_GRACE_S": "10",
    "SLIPWAY_LEASE_S": "30",
}
ENGINES = ("llama.cpp", "transformers", "sglang", "vllm")
# The first token of its answer is nearly a tie.
QUESTION = "What is the capital of France?"
GIB = 1 << 30
# The KV cache of one token: keys and values of 30 layers, 3 heads of 64, in 16 bits.
TOKEN_BYTES = 2 * 30 * 3 * 64 * 2


@pytest.fixture
def worker(team: Team) -> Iterator[Fleet]:
    for engine in ENGINES:
        real_engines.environment(engine)
    for kind in ("gguf", "safetensors"):
        real_engines.demo(kind)
    fleet = Fleet()
    fleet.work(**WORKER)
    yield fleet
    fleet.close()
    assert_sound()


@pytest.fixture
def chat(worker: Fleet, team: Team, user: User) -> Conversation:
    """Nothing runs; vLLM and SGLang want so much for their KV caches that they do not fit together."""
    node = until("the node tells its memory", Node.objects.filter(inventory__memory_bytes__gt=0).first)
    free = node.inventory["memory_available_bytes"]
    options = {
        "vllm": {"kv_cache_gib": round(free * 0.65 / GIB, 1), "max_model_len": 2048, "enforce_eager": True},
        "sglang": {"max_total_tokens": int(free * 0.4 / TOKEN_BYTES)},
    }
    model, _ = real_engines.demo("gguf")
    rows = [
        Deployment.objects.create(
            team=team,
            created_by=user,
            model=model,
            engine=engine,
            name=f"on {engine}",
            wanted={"version": None, "options": options.get(engine, {})},
            desired=Deployment.Desired.STOPPED,
        )
        for engine in ENGINES
    ]
    parameters = {"temperature": 0.0, "max_tokens": 24}
    return chats.conversation(team, *rows, created_by=user, parameters=parameters)


def test_four_engines_by_a_plan_and_where_they_part(
    open_page: Callable[..., Page], chat: Conversation, user: User
) -> None:
    page = open_page(user, width=1500)
    page.goto(f"/playground/{chat.pk}/plan/")
    page.get_by_label("Message", exact=True).fill(QUESTION)
    stages = page.locator("#stages .plan-stage")
    expect(stages).to_have_count(2)
    page.get_by_role("button", name="Run it").click()
    expect(page.locator("#progress")).to_contain_text("Under way")
    job = until("the plan runs", Job.objects.filter(kind=Job.Kind.RUN_PLAN).first)
    until("the plan ends", lambda: Job.objects.exclude(state__in=Job.ACTIVE).filter(pk=job.pk).first(), 700)
    job.refresh_from_db()
    assert job.state == Job.State.DONE, job.error
    answers = {row.column.deployment.engine: row for row in Generation.objects.all() if row.column.deployment}
    assert set(answers) == set(ENGINES)
    assert {row.state for row in answers.values()} == {"complete"}, [row.error for row in answers.values()]
    assert all(row.usage["completion_tokens"] for row in answers.values())
    until("nothing is left", lambda: not Replica.objects.exclude(state__in=Replica.TERMINAL).exists())
    vllm, others = answers["vllm"], [row for engine, row in answers.items() if engine != "vllm"]
    assert all(row.ended_at < vllm.replica.created_at or row.created_at > vllm.ended_at for row in others)

    page.goto(f"/playground/{chat.pk}/")
    foot = page.locator(".turn-foot")
    texts = [answers[engine].text for engine in ENGINES]
    for place, text in enumerate(texts[1:], 2):
        part = "identical" if text == texts[0] else "part at word [0-9]+ |the same as far as"
        expect(foot).to_contain_text(re.compile(f"1.{place} ({part})"))
    assert len(set(texts)) > 1, "with this question engines part"

    # Nothing runs now, so nobody can tell how near a tie it was: n/a, with the reason.
    first = next(place for place, text in enumerate(texts[1:], 1) if text != texts[0])
    columns = list(chat.columns.values_list("pk", flat=True))
    page.goto(f"/playground/turns/{chat.turns.get().pk}/difference/?a={columns[0]}&b={columns[first]}")
    page.get_by_role("button", name=re.compile("Measure the margin")).click()
    expect(page.locator(".difference-parting")).to_contain_text("n/a: ")
