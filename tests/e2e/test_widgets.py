"""Widgets of tasks other than chat, and pictures in a chat, in a real browser with a fake engine."""

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, Locator, Page, expect

from playground.models import Conversation, Deployment, Generation, Image, Model, Team, Turn, User
from tests import chats
from tests.e2e.axe import violations
from tests.e2e.test_chat import ends, opened, signed_in
from tests.fakes import RunningFake

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

# Where to leave pictures of the pages, for a person to judge: SLIPWAY_SHOTS=/tmp/shots.
SHOTS = os.environ.get("SLIPWAY_SHOTS", "")


def png(width: int, height: int) -> bytes:
    """A real picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\x2a\x55\xc4" * width) * height)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def file(name: str, raw: bytes, kind: str = "image/png") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": raw}


@pytest.fixture
def context(browser: Browser, server: str, user: User) -> Iterator[BrowserContext]:
    context = signed_in(browser, server, user)
    problems: list[str] = []
    context.on("weberror", lambda error: problems.append(str(error.error)))
    yield context
    context.close()
    assert not problems


Ready = Callable[..., Conversation]


@pytest.fixture
def engines() -> list[RunningFake]:
    """Those that `ready` started."""
    return []


@pytest.fixture
def ready(team: Team, fake_engine: Callable[..., RunningFake], engines: list[RunningFake]) -> Ready:
    """A conversation with a model of that task, served by a fake engine."""

    def made(task: str, **facts: object) -> Conversation:
        model = Model.objects.create(
            team=team, name=f"tiny {task}", source=f"local:{task}", task=task, **facts
        )
        row = Deployment.objects.create(team=team, name=f"{task} on fake", model=model, engine="fake")
        engines.append(fake_engine(key="k", tokens=12))
        chats.ready(row, engines[-1])
        return chats.conversation(team, row, task=task)

    return made


def asked(page: Page, verb: str, text: str, label: str) -> Locator:
    """Type and send; the answer it makes."""
    before = page.locator(".turn[id]").count()
    page.get_by_label(label, exact=True).fill(text)
    page.get_by_role("button", name=verb, exact=True).click()
    expect(page.locator(".turn[id]")).to_have_count(before + 1)
    return page.locator(".turn[id] .answer").last


def looks_right(page: Page, name: str) -> None:
    """Nothing axe objects to, light and dark, and no sideways scroll of the page at 400 px."""
    for scheme, width in (("light", 1200), ("dark", 1200), ("light", 400)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 800})
        if SHOTS:
            page.screenshot(path=Path(SHOTS) / f"{name}-{scheme}-{width}.png")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} px wide at {width}"
        if width == 1200:
            assert violations(page) == []
    page.set_viewport_size({"width": 1200, "height": 800})
    page.emulate_media(color_scheme="light")


def test_texts_become_vectors_with_their_similarity(context: BrowserContext, ready: Ready) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = opened(context, ready("embedding"))
    expect(page.locator(".settings fieldset")).to_be_hidden()
    texts = "the cat sat\nthe cat sat\nbananas are yellow"
    answer = ends(asked(page, "Embed", texts, "Texts, one a line"))
    expect(answer.locator(".vectors caption")).to_have_text("3 vectors of 16 numbers")
    expect(answer.locator(".vectors tbody tr")).to_have_count(3)
    cells = answer.locator(".similarity tbody tr").first.locator("td")
    expect(cells).to_have_text([re.compile("1.00"), re.compile("1.00"), re.compile("0.00")])
    expect(answer.locator(".figures")).to_contain_text("9 tokens read")
    expect(answer.locator(".figures")).to_contain_text(re.compile(r"\d+ ms"))
    expect(answer.locator(".figures")).not_to_contain_text("TTFT")
    third = answer.locator(".vectors tbody tr").nth(2).get_by_role("button")
    third.dblclick()
    expect(page.locator("#status")).to_have_text("Copied.")
    expect(third).to_have_text("Copied")
    expect(third).to_have_text("Copy vector 3")
    numbers = page.evaluate("navigator.clipboard.readText().then(JSON.parse)")
    assert len(numbers) == 16
    assert abs(sum(number**2 for number in numbers) - 1) < 1e-5
    looks_right(page, "embedding")
    page.reload()
    expect(page.locator(".similarity")).to_be_visible()


def test_what_goes_wrong_is_said_and_nothing_typed_is_lost(context: BrowserContext, ready: Ready) -> None:
    page = opened(context, ready("embedding"))
    page.get_by_role("button", name="Embed", exact=True).click()
    expect(page.locator("#composer-note")).to_have_text("Type at least one text first.")
    many = "\n".join(f"text {number}" for number in range(33))
    page.get_by_label("Texts, one a line").fill(many)
    page.get_by_role("button", name="Embed", exact=True).click()
    expect(page.locator("#composer-note")).to_contain_text("33 texts; 32 at a time")
    expect(page.get_by_label("Texts, one a line")).to_have_value(many)
    page.reload()
    expect(page.get_by_label("Texts, one a line")).to_have_value(many)
    answer = asked(page, "Embed", "one [[short]]\ntwo", "Texts, one a line")
    expect(ends(answer, "failed").locator(".note")).to_contain_text("answered 1 of 2 texts")
    answer = asked(page, "Embed", "one [[nan]]", "Texts, one a line")
    expect(ends(answer, "failed").locator(".note")).to_contain_text("not a number")
    answer = asked(page, "Embed", "one [[error=500]]", "Texts, one a line")
    expect(ends(answer, "failed").locator(".note")).to_contain_text("The engine failed with 500")
    answer = asked(page, "Embed", "one [[hang]]", "Texts, one a line")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(ends(answer, "stopped")).to_contain_text("before the answer came")


def test_a_double_click_a_reload_and_a_killed_engine_lose_nothing(
    context: BrowserContext, ready: Ready, engines: list[RunningFake]
) -> None:
    page = opened(context, ready("embedding"))
    page.get_by_label("Texts, one a line").fill("one [[wait=1]]\ntwo")
    page.get_by_role("button", name="Embed", exact=True).dblclick()
    expect(page.locator(".turn[id]")).to_have_count(1)
    expect(page.locator(".answer[data-state=streaming]")).to_have_count(1)
    page.reload()
    expect(page.locator(".vectors caption")).to_have_text("2 vectors of 16 numbers")
    page.get_by_label("Texts, one a line").fill("three")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".vectors caption").last).to_have_text("1 vector of 16 numbers")
    assert Turn.objects.count() == 2
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="View code").click()
    code = page.locator("#code .log")
    expect(code).to_have_count(3)
    expect(code.first).to_contain_text("/v1/embeddings")
    expect(code.first).to_contain_text('"three"')
    page.keyboard.press("Escape")
    answer = asked(page, "Embed", "four [[hang]]", "Texts, one a line")
    expect(answer).to_have_attribute("data-state", "streaming")
    engines[0].process.kill()
    # Its socket is closed a moment before its port is: what was asked is cut off, or asked again in vain.
    words = re.compile("cannot be reached|closed the connection")
    expect(ends(answer, "failed").locator(".note")).to_contain_text(words)


def test_documents_are_ranked_by_a_query(context: BrowserContext, ready: Ready) -> None:
    page = opened(context, ready("rerank"))
    page.get_by_label("Documents, one a line").fill("bananas are yellow\nthe capital of France is Paris")
    page.get_by_role("button", name="Rank", exact=True).click()
    expect(page.locator("#composer-note")).to_have_text("Type the query that the documents are ranked by.")
    page.get_by_label("Query", exact=True).fill("capital of France")
    page.reload()
    expect(page.get_by_label("Query", exact=True)).to_have_value("capital of France")
    expect(page.get_by_label("Documents, one a line")).to_have_value(re.compile("^bananas"))
    documents = "bananas are yellow\nthe capital of France is Paris\nFrance"
    answer = ends(asked(page, "Rank", documents, "Documents, one a line"))
    rows = answer.locator(".scores tbody tr")
    expect(rows.locator("th")).to_have_text(
        ["the capital of France is Paris", "France", "bananas are yellow"]
    )
    expect(rows.locator("td.num")).to_have_text(["3.0000", "1.0000", "-1.0000"])
    expect(page.locator(".said-query")).to_contain_text("capital of France")
    page.locator("[data-edit]").click()
    page.get_by_label("Changed query").fill("bananas")
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".scores tbody th").first).to_have_text("bananas are yellow")
    looks_right(page, "rerank")


def test_texts_get_labels_with_their_scores(context: BrowserContext, ready: Ready) -> None:
    page = opened(context, ready("classification", facts={"labels": ["long", "short"]}))
    answer = ends(asked(page, "Classify", "hello\none two three four five", "Texts, one a line"))
    sections = answer.locator(".labelled")
    expect(sections.nth(0).locator("tbody th")).to_have_text(["short", "long"])
    expect(sections.nth(1).locator("td.num")).to_have_text(["0.9000", "0.1000"])
    looks_right(page, "classification")


def test_a_text_is_continued_as_it_is(context: BrowserContext, ready: Ready) -> None:
    page = opened(context, ready("completion"))
    answer = ends(asked(page, "Continue", "Once [[tokens=4]] upon", "Text to continue"))
    expect(answer.locator(".text[data-kind=content]")).to_have_text(chats.words(4))
    expect(answer.locator(".figures")).to_contain_text(re.compile(r"TTFT \d+ ms"))
    row = Generation.objects.get()
    assert row.request["prompt"] == "Once [[tokens=4]] upon"
    assert "messages" not in row.request
    answer.get_by_role("button", name="Go on from here").click()
    longer = "Once [[tokens=4]] upon" + chats.words(4)
    expect(page.get_by_label("Text to continue")).to_have_value(longer)
    looks_right(page, "completion")


@pytest.fixture
def seeing(context: BrowserContext, ready: Ready) -> Page:
    return opened(context, ready("chat", takes_images=True))


def test_pictures_go_with_a_message_and_stay_in_it(seeing: Page) -> None:
    page, blue = seeing, png(64, 32)
    page.locator("#picture").set_input_files([file("blue.png", blue), file("tall.png", png(10, 90))])
    expect(page.locator("#attached img")).to_have_count(2)
    page.get_by_label("Take picture 2 away").click()
    expect(page.locator("#attached img")).to_have_count(1)
    page.reload()
    expect(page.locator("#attached img")).to_have_count(1)
    looks_right(page, "attached")
    answer = ends(asked(page, "Send", "What is this? [[images]]", "Message"))
    expect(answer.locator(".prose")).to_have_text(f"png of {len(blue)} bytes")
    expect(page.locator("#attached img")).to_have_count(0)
    shown = page.locator(".said .pictures img")
    expect(shown).to_have_attribute("alt", "Attached picture 1, 64 by 32 pixels")
    assert shown.evaluate("image => image.naturalWidth") == 64
    looks_right(page, "pictures")
    kept = Generation.objects.get().request["messages"][-1]["content"]
    assert kept[1]["image_url"] == {"url": f"image:{Image.objects.get().pk}"}
    page.locator("[data-edit]").click()
    page.get_by_label("Changed text").fill("And this? [[images]]")
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".answer .prose")).to_have_text(f"png of {len(blue)} bytes")
    expect(page.locator(".said .pictures img")).to_have_count(1)


def test_what_is_no_bearable_picture_is_refused_at_the_composer(seeing: Page) -> None:
    page, note = seeing, seeing.locator("#composer-note")
    page.get_by_label("Message", exact=True).fill("typed before")
    for name, raw, why in [
        ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no PNG, JPEG or WebP"),
        ("old.png", b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 64, "no PNG, JPEG or WebP"),
        ("huge.png", png(1, 1)[:16] + struct.pack(">II", 100_000, 100_000), "100,000 by 100,000 pixels"),
        ("heavy.png", png(8, 8) + b"\0" * (4 << 20), "more than 4 MiB"),
    ]:
        page.locator("#picture").set_input_files([file(name, raw)])
        expect(note).to_contain_text(f"{name} was not attached")
        expect(note).to_contain_text(why)
    page.locator("#picture").set_input_files([file(f"{at}.png", png(4, 4)) for at in range(5)])
    expect(note).to_contain_text("4.png was not attached: 4 pictures a message is the most")
    expect(page.locator("#attached img")).to_have_count(4)
    expect(page.get_by_label("Message", exact=True)).to_have_value("typed before")
    assert not Turn.objects.exists()


def test_a_picture_that_did_not_get_through_can_be_chosen_again(seeing: Page) -> None:
    page, blue = seeing, file("blue.png", png(8, 8))
    page.context.set_offline(True)
    page.locator("#picture").set_input_files([blue])
    expect(page.locator("#toasts")).to_contain_text("could not be reached")
    assert page.locator("#picture").input_value() == ""
    page.context.set_offline(False)
    page.locator("#picture").set_input_files([blue])
    expect(page.locator("#attached img")).to_have_count(1)
    page.get_by_label("Take picture 1 away").press("Enter")
    expect(page.locator("#attached img")).to_have_count(0)


def test_a_model_that_reads_no_pictures_is_offered_none(context: BrowserContext, ready: Ready) -> None:
    page = opened(context, ready("chat"))
    expect(page.get_by_role("button", name="Picture", exact=True)).to_be_hidden()
