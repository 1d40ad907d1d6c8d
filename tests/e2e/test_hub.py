"""From a name to two engines in a real browser: found on the Hub, brought through a cut, started, asked."""

import re
import shutil
from collections.abc import Iterator

import pytest
from django.urls import reverse
from playwright.sync_api import Browser, BrowserContext, Page, expect

from playground.models import Deployment, Job, Model, Team, User
from tests import real_engines
from tests.e2e.axe import violations
from tests.e2e.conftest import brief, web
from tests.e2e.test_chat import signed_in
from tests.fleet import Fleet, assert_sound, ready, until
from tests.home import HOME
from tests.hub_repos import KNOWN
from tests.hub_stand_in import DEMO, HubStandIn

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.django_db(transaction=True)]
# Times as in production: a busy machine must not take a slow engine for a frozen one.
WORKER = {"SLIPWAY_LOST_AFTER_S": "30", "SLIPWAY_FROZEN_AFTER_S": "120", "SLIPWAY_GRACE_S": "10"}
CARD = b"---\nlicense: apache-2.0\n---\n# SmolLM2\n\nA small model that answers.\n"


@pytest.fixture
def demo(hub: HubStandIn, team: Team) -> HubStandIn:
    """A Hub with the demo model's real weights as GGUF, and small models beside it."""
    hub.add_tiny()
    real_engines.environment("llama.cpp")
    _, form = real_engines.demo("gguf")
    file = HOME / "models" / form.path
    kept = real_engines.CACHE / "models" / form.path
    told = {"total": 134_515_008, "architecture": "llama", "context_length": 8192}
    hub.add(DEMO, {"README.md": CARD, file.name: kept}, downloads=1_234_567, gguf=told, **KNOWN)
    return hub


@pytest.fixture
def fleet(demo: HubStandIn) -> Iterator[Fleet]:
    """A worker that takes the stand-in for the Hub, and the engines that are installed."""
    shutil.rmtree(HOME / "models" / "hub", ignore_errors=True)
    fleet = Fleet()
    fleet.work(**WORKER, HF_ENDPOINT=demo.url)
    yield fleet
    fleet.close()
    assert_sound()
    shutil.rmtree(HOME / "models" / "hub", ignore_errors=True)


@pytest.fixture
def context(browser: Browser, user: User, demo: HubStandIn, fleet: Fleet) -> Iterator[BrowserContext]:
    """A browser in which an administrator is signed in, on a web process that asks the stand-in."""
    with web(HOME, HF_ENDPOINT=demo.url) as address:
        context = signed_in(browser, address, user)
        problems: list[str] = []
        context.on("weberror", lambda error: problems.append(str(error.error)))
        yield context
        context.close()
        assert not problems


def found(page: Page, repo: str, typed: str) -> None:
    """Type until the Hub's hit shows, with its verdict; open it."""
    page.goto(reverse("models"))
    page.get_by_label("Search models here and on the Hub").press_sequentially(typed, delay=20)
    hit = page.locator("#hub tr", has=page.get_by_role("link", name=repo, exact=True))
    expect(hit.locator(".verdict")).to_contain_text(re.compile(r"fits: (about )?[\d.]+ [GM]iB of weights"))
    assert violations(page) == []
    hit.get_by_role("link", name=repo, exact=True).click()
    expect(page.get_by_role("heading", name=repo)).to_be_visible()


@pytest.fixture
def whole(demo: HubStandIn) -> HubStandIn:
    """The same repository with its weights as safetensors, too."""
    real_engines.environment("transformers")
    _, form = real_engines.demo("safetensors")
    kept = real_engines.CACHE / "models" / form.path
    files = {str(file.relative_to(kept)): file for file in sorted(kept.rglob("*")) if file.is_file()}
    demo.change(DEMO, files)
    demo.repos[DEMO].facts["safetensors"] = {"parameters": {"BF16": 134_515_008}, "total": 134_515_008}
    return demo


def started(page: Page, engine: str, name: str, within_s: float = 120) -> None:
    """Start it on that engine from its page, and follow the start until it may be asked."""
    page.get_by_role("radio", name=engine, exact=True).check()
    start = page.locator("#start")
    expect(start.locator("input[name=options-of]")).not_to_have_value("")
    expect(start.get_by_role("radio", name=engine, exact=True)).to_be_checked()
    start.get_by_role("button", name="Start", exact=True).click()
    row = until("it is asked for", lambda: Deployment.objects.filter(engine=name).first())
    ready(row, within_s)
    page.get_by_role("link", name="Open in the playground").click()


def answered(page: Page, within_s: float = 60) -> None:
    brief(page)
    page.get_by_role("textbox", name="Message").fill("What is the capital of France?")
    page.get_by_role("button", name="Send", exact=True).click()
    answer = page.locator(".answer").last
    expect(answer).to_have_attribute("data-state", "complete", timeout=within_s * 1000)
    expect(answer).to_contain_text(re.compile(r"\w{2}"))


@pytest.mark.parametrize(
    ("title", "engine"),
    [("Fake", "fake"), pytest.param("transformers", "transformers", marks=pytest.mark.engines)],
)
def test_from_a_name_to_two_engines(
    request: pytest.FixtureRequest,
    context: BrowserContext,
    demo: HubStandIn,
    fleet: Fleet,
    team: Team,
    title: str,
    engine: str,
) -> None:
    if engine == "transformers":
        request.getfixturevalue("whole")
    name = next(file for file in demo.repos[DEMO].commits[demo.commit(DEMO)] if file.endswith(".gguf"))
    gate = demo.hold(name, at=0.5)
    demo.cut(name, at=0.75)
    page = context.new_page()
    page.goto(reverse("hub-model", args=["tiny-org/tiny-llama"]))
    expect(page.locator("[data-card] h2")).to_have_text("Tiny")
    expect(page.locator("[data-card] :is(script, img)")).to_have_count(0)
    found(page, DEMO, "smol")

    # What it is, and that it would run, is known before anything is here.
    expect(page.locator("#main")).to_contain_text(demo.commit(DEMO))
    expect(page.locator("[data-card]")).to_contain_text("A small model that answers.")
    expect(page.locator("li", has_text="llama.cpp").locator(".verdict")).to_contain_text("GiB")
    assert violations(page) == []
    page.get_by_role("checkbox", name="Q4_1").check()
    page.get_by_role("button", name="Add", exact=True).dblclick()
    expect(page.get_by_role("heading", name=DEMO)).to_be_visible()
    model = Model.objects.get(team=team, source=f"hub:{DEMO}@{demo.commit(DEMO)}")

    # Its file comes: half of it is here and told so, on a page opened anew, too; then the connection is cut.
    expect(page.locator("#comes-first")).to_contain_text("98.4 MB come first")
    place = page.locator(f"#holding-{model.formats.get(kind='gguf').pk}")
    place.get_by_role("button", name="Download", exact=True).click()
    told = page.locator("#files .progress .words")
    expect(told).to_contain_text("downloading, 49.2 of 98.4 MB", timeout=30_000)
    assert violations(page) == []
    page.reload()
    expect(told).to_contain_text("49.2 of 98.4 MB")
    assert not Deployment.objects.exists(), "nothing is held while it comes"
    gate.set()
    expect(place.locator(".state[data-state=fresh]")).to_be_visible(timeout=60_000)
    job = Job.objects.get(kind=Job.Kind.DOWNLOAD_MODEL)
    assert "cut at" in job.log_tail
    assert job.state == "done"

    # It starts on two engines, and each answers.
    expect(page.locator("#preview")).to_contain_text("Fits: needs")
    expect(page.locator("#comes-first")).to_have_count(0)
    started(page, "llama.cpp", "llama.cpp")
    answered(page)
    page.goto(reverse("model", args=[model.pk]))
    started(page, title, engine)
    answered(page)

    # What runs keeps it; stopped, it goes and its room comes back.
    page.goto(reverse("model", args=[model.pk]))
    page.locator("#removing > summary").click()
    expect(page.locator("#removing")).to_contain_text("running deployment")
    expect(page.locator("#removing").get_by_role("button", name="Remove")).to_have_count(0)
    for row in Deployment.objects.all():
        fleet.manage("stop", str(row.pk), "--wait")
    page.reload()
    page.locator("#removing > summary").click()
    page.locator("#removing").get_by_role("button", name="Remove").click()
    page.locator("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("is being removed")).to_be_visible()
    until("its files go", lambda: not list((HOME / "models" / "hub").rglob("*.gguf")))


def test_without_a_hub_the_page_says_so_and_what_is_here_starts(
    browser: Browser, user: User, hub: HubStandIn
) -> None:
    hub.close()
    with web(HOME, HF_ENDPOINT=hub.url) as address:
        context = signed_in(browser, address, user)
        page = context.new_page()
        page.goto(reverse("models"))
        page.get_by_label("Search models here and on the Hub").press_sequentially("smol", delay=20)
        expect(page.locator("#hub")).to_contain_text("The Hub cannot be reached")
        expect(page.locator("#local")).to_contain_text("SmolLM2-135M-Instruct")
        assert violations(page) == []
        page.get_by_role("link", name="SmolLM2-135M-Instruct").click()
        # No node reports here: it waits for one.
        expect(page.locator("#start").get_by_role("button", name="Start, and wait")).to_be_visible()
        context.close()
