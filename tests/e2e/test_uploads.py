"""Own models from a real browser: files in pieces, gone on with after a reload, started, chatted with."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from playwright.sync_api import Page, Route, expect

from playground import catalogue, deployments, landing
from playground.models import Job, Membership, Model, Node, Team, Upload, User
from tests import fleet, real_engines
from tests.e2e.axe import violations
from tests.e2e.conftest import brief
from tests.fleet import Fleet
from tests.home import HOME
from tests.hub_repos import gguf, safetensors, tiny_files

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
Opener = Callable[..., Page]
# Where to leave pictures of the pages, for a person to judge: SLIPWAY_SHOTS=/tmp/shots.
SHOTS = os.environ.get("SLIPWAY_SHOTS", "")
PATIENCE = 120_000
PIECES = re.compile(r"/models/own/uploads/\d+/$")
MODELS = HOME / "models"


@pytest.fixture(autouse=True)
def node(team: Team) -> Iterator[Node]:
    """This machine, with an empty models folder."""
    shutil.rmtree(MODELS, ignore_errors=True)
    yield Node.objects.get_or_create(name=settings.NODE_NAME)[0]
    shutil.rmtree(MODELS, ignore_errors=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as people have them: a model's files, a pickle and code of others beside them."""
    place = tmp_path / "tiny model"
    files = {**tiny_files(), "pytorch_model.bin": b"\x80\x04.", "convert.py": b"print()", "empty.txt": b""}
    for name, content in files.items():
        assert isinstance(content, bytes)
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A sound file of three pieces."""
    path = tmp_path / "large.safetensors"
    path.write_bytes(safetensors({"weight": [10, 1 << 20]}))
    return path


class Held:
    """Lets so many pieces pass, and counts them. The next ones wait for ever, or are cut off."""

    def __init__(self, page: Page, passing: int) -> None:
        self.passing, self.passed, self.cut = passing, 0, False
        page.route(PIECES, self)

    def __call__(self, route: Route) -> None:
        if self.cut:
            route.abort()
        elif self.passed < self.passing:
            self.passed += 1
            route.continue_()


def choose(page: Page, *files: Path) -> None:
    page.locator("#upload-files").set_input_files(list(files))


def upload(page: Page) -> None:
    page.get_by_role("button", name="Upload", exact=True).click()


def looks_right(page: Page, name: str) -> None:
    """Nothing axe objects to, light and dark, and no sideways scroll at 400 and 360 px."""
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 400), ("dark", 360)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 860})
        if SHOTS:
            page.screenshot(path=Path(SHOTS) / f"{name}-{scheme}-{width}.png", full_page=True)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} px wide at {width}"
        if width != 360:
            assert violations(page) == []
    page.set_viewport_size({"width": 1280, "height": 860})
    page.emulate_media(color_scheme="light")


@pytest.mark.slow
def test_a_gguf_comes_in_pieces_through_a_reload_starts_and_answers(
    open_page: Opener, user: User, team: Team
) -> None:
    real_engines.environment("llama.cpp")
    demo = catalogue.root() / real_engines.demo("gguf")[1].path
    given = demo.rename(HOME / "brought.gguf")
    workers = Fleet()
    workers.work(SLIPWAY_GRACE_S="10", SLIPWAY_FROZEN_AFTER_S="60", SLIPWAY_LOST_AFTER_S="30")
    try:
        page = open_page(user)
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto("/models/own/")
        choose(page, given)
        expect(page.get_by_label("Name", exact=True).first).to_have_value("brought")
        held = Held(page, passing=4)
        upload(page)
        coming = page.locator('[data-upload="brought"]')
        expect(coming.locator("progress")).to_have_js_property("value", 4 * (8 << 20), timeout=PATIENCE)
        page.reload()

        # What came is still there; the browser asks for the same file and sends only the rest.
        expect(coming).to_contain_text("incomplete")
        looks_right(page, "upload-incomplete")
        held.passing = 1000
        with page.expect_file_chooser() as chooser:
            coming.get_by_role("button", name="Go on…").click()
        chooser.value.set_files(given)
        upload(page)
        expect(page.get_by_text("brought is here.")).to_be_visible(timeout=PATIENCE)
        pieces = -(-given.stat().st_size // (8 << 20))
        assert held.passed == pieces, "each piece went once"
        assert (MODELS / "brought" / "brought.gguf").stat().st_size == given.stat().st_size

        page.get_by_role("link", name="Look at it and start it").click()
        page.get_by_role("button", name="Start", exact=True).click()
        page.wait_for_url(re.compile(r"/running/\d+/"))
        row = deployments.Deployment.objects.get(model__name="brought")
        fleet.ready(row, 90)
        page.get_by_role("link", name="Open in the playground").click()
        brief(page)
        page.get_by_role("textbox", name="Message").fill("What is the capital of France?")
        page.get_by_role("button", name="Send").click()
        answer = page.locator(".answer").last
        expect(answer).to_have_attribute("data-state", "complete", timeout=PATIENCE)
        expect(answer).to_contain_text(re.compile(r"\w{2}"))
    finally:
        workers.close()
        given.unlink()


def test_a_folder_goes_without_what_is_none_of_a_models(open_page: Opener, user: User, folder: Path) -> None:
    page = open_page(user)
    page.goto("/models/own/")
    page.locator("#upload-folder").set_input_files(folder)
    expect(page.get_by_label("Name", exact=True).first).to_have_value("tiny-model")
    held = Held(page, passing=0)
    upload(page)
    listed = page.get_by_label("Files to upload")
    expect(listed).to_contain_text("pytorch_model.bin is left out: its format can run code when it is loaded")
    expect(listed).to_contain_text("convert.py is left out: code is not taken.")
    expect(listed).to_contain_text("empty.txt is left out: it is empty.")
    named = Upload.objects.values_list("path", flat=True)
    fleet.until("all are named first", lambda: set(named.all()) == set(tiny_files()))
    assert held.passed == 0 and page.get_by_role("button", name="Pause").is_visible()
    coming = page.locator('[data-upload="tiny-model"]')
    expect(coming).to_contain_text("uploading")
    expect(coming.get_by_role("button", name="Go on…")).to_be_hidden()
    looks_right(page, "upload-folder")


def test_what_stands_against_it_is_said_and_nothing_typed_is_lost(
    open_page: Opener, user: User, tmp_path: Path
) -> None:
    (tmp_path / "model.bin").write_bytes(b"\x80\x04.")
    (tmp_path / "a.gguf").write_bytes(gguf())
    (MODELS / "taken").mkdir(parents=True)
    page = open_page(user)
    page.goto("/models/own/")
    error = page.locator("#upload-error")
    upload(page)
    expect(error).to_have_text("Choose the model's files first.")
    choose(page, tmp_path / "model.bin")
    upload(page)
    expect(error).to_have_text("None of these files belongs to a model.")
    expect(page.get_by_label("Files to upload")).to_contain_text("can run code when it is loaded")
    page.get_by_role("button", name="Clear the list").click()
    choose(page, tmp_path / "a.gguf")
    name = page.get_by_label("Name", exact=True).first
    for given, why in {
        "": "Give the model a name.",
        "../up": "A name has letters, digits",
        "taken": "taken is taken",
    }.items():
        name.fill(given)
        upload(page)
        expect(error).to_contain_text(why)
        expect(name).to_have_value(given)
        expect(page.get_by_label("Files to upload")).to_contain_text("a.gguf")
    looks_right(page, "upload-refused")
    assert not Upload.objects.exists()


def test_a_pause_keeps_its_place_and_two_tabs_send_each_byte_once(
    open_page: Opener, user: User, large: Path
) -> None:
    first, second = open_page(user), open_page(user)
    held = Held(first, passing=1)
    for page in (first, second):
        page.goto("/models/own/")
        choose(page, large)
    upload(first)
    expect(first.get_by_label("Files to upload")).to_contain_text("8.4 MB of 21.0 MB", timeout=PATIENCE)
    first.get_by_role("button", name="Pause").click()
    expect(first.get_by_role("button", name="Pause")).to_be_hidden()
    assert Upload.objects.get().received_bytes == 8 << 20
    seen: list[int] = []
    second.on("request", lambda one: seen.append(1) if PIECES.search(one.url) else None)
    upload(second)
    expect(second.get_by_label("Files to upload")).to_be_empty(timeout=PATIENCE)
    assert held.passed + len(seen) == 3, "the second went on where the first was"
    row = Upload.objects.get()
    assert row.received_bytes == row.size_bytes == large.stat().st_size
    whole = landing.folder(row.team_id, row.name) / row.path
    assert whole.read_bytes() == large.read_bytes()


def test_another_file_of_the_same_name_and_size_is_not_mixed_in(
    open_page: Opener, user: User, large: Path
) -> None:
    page = open_page(user)
    Held(page, passing=1)
    page.goto("/models/own/")
    choose(page, large)
    upload(page)
    expect(page.get_by_label("Files to upload")).to_contain_text("8.4 MB of 21.0 MB", timeout=PATIENCE)
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Clear the list").click()
    Upload.objects.update(sha256="")
    other = bytearray(large.read_bytes())
    other[5 << 20 : 9 << 20] = b"x" * (4 << 20)
    large.write_bytes(other)
    choose(page, large)
    upload(page)
    expect(page.locator("#upload-error")).to_contain_text("is another file than the one that was begun")
    assert Upload.objects.get().received_bytes == 8 << 20


def test_a_broken_connection_is_waited_for_and_a_removed_upload_is_said(
    open_page: Opener, user: User, large: Path
) -> None:
    page = open_page(user)
    held = Held(page, passing=1)
    page.goto("/models/own/")
    choose(page, large)
    upload(page)
    listed = page.get_by_label("Files to upload")
    expect(listed).to_contain_text("8.4 MB of 21.0 MB", timeout=PATIENCE)
    page.get_by_role("button", name="Pause").click()
    held.cut = True
    upload(page)
    expect(listed).to_contain_text("no connection; trying again", timeout=PATIENCE)
    held.cut, held.passing = False, 1000
    Upload.objects.all().delete()
    page.route(
        re.compile("uploads/$"),
        lambda route: route.fulfill(json={"received": 0, "url": "/models/own/uploads/0/"}),
    )
    expect(page.locator("#upload-error")).to_contain_text("removed meanwhile", timeout=PATIENCE)


def test_the_ways_to_add_one_are_for_those_who_may(open_page: Opener, user: User, team: Team) -> None:
    page = open_page(user)
    page.goto("/models/own/")
    page.locator("#s3 summary").click()
    looks_right(page, "own-models")
    page.get_by_label("Address").fill("http://wrong")
    page.get_by_role("button", name="Import").click()
    expect(page.locator("#bucket-address-error")).to_contain_text("An address looks like s3://")
    expect(page.get_by_label("Address")).to_have_value("http://wrong")
    Membership.objects.filter(user=user).update(role=Membership.Role.VIEWER)
    page.goto("/models/own/")
    expect(page.get_by_role("button", name="Upload", exact=True)).to_have_count(0)
    expect(page.get_by_role("button", name="Import")).to_have_count(0)
    looks_right(page, "own-models-viewer")


def test_what_is_on_its_way_and_what_failed_say_how_they_stand(
    open_page: Opener, user: User, team: Team, node: Node
) -> None:
    def job(name: str, state: str, **values: Any) -> None:
        arguments = values.pop("arguments", {"address": f"s3://models/{name}", "name": name})
        kind, target = Job.Kind.IMPORT_MODEL, landing.target(team.pk, name)
        Job.objects.create(
            kind=kind, node=node, target=target, team=team, state=state, arguments=arguments, **values
        )

    progress = {"step": "downloading", "done": 300_000_000, "total": 900_000_000, "unit": "bytes"}
    job("llama", Job.State.RUNNING, progress=progress)
    job("qwen", Job.State.FAILED, error="The store broke off: The connection broke. Try again: it goes on.")
    landing.folder(team.pk, "qwen").mkdir(parents=True)
    size = 16_000_000_000
    for name, received in (
        ("a-model-with-a-long-name-that-somebody-chose-7B-Instruct-v0.3", size // 3),
        ("bad", size),
    ):
        Upload.objects.create(
            team=team, name=name, path=f"{name}.gguf", size_bytes=size, received_bytes=received
        )
    wrong = "bad.gguf is no sound GGUF file: it does not begin with GGUF."
    job("bad", Job.State.FAILED, error=wrong, arguments={"upload": "bad"})
    page = open_page(user)
    page.goto("/models/own/")
    expect(page.get_by_text("downloading, 300.0 of 900.0 MB")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text=wrong)).to_be_visible()
    looks_right(page, "own-models-coming")
    page.get_by_role("button", name="Remove: qwen").click()
    expect(page.get_by_text("The store broke off")).to_have_count(0)
    page.get_by_role("button", name="Remove the upload bad").click()
    page.get_by_role("button", name="Remove", exact=True).last.click()
    expect(page.get_by_text("The upload bad was removed.")).to_be_visible()
    assert [row.received_bytes for row in Upload.objects.all()] == [size // 3]


def test_a_models_own_code_is_read_and_allowed(open_page: Opener, user: User, team: Team) -> None:
    place = MODELS / "own-code"
    place.mkdir(parents=True)
    for name, content in {**tiny_files(), "modeling.py": b"import os  # <b>evil</b>\n" * 40}.items():
        assert isinstance(content, bytes)
        (place / name).write_bytes(content)
    catalogue.scan(team)
    model = Model.objects.get(name="own-code")
    page = open_page(user)
    page.goto(f"/models/{model.pk}/")
    page.get_by_role("link", name=re.compile("Read it, and allow it")).click()
    expect(page.locator("pre").first).to_contain_text("<b>evil</b>")
    looks_right(page, "own-code")
    page.get_by_role("button", name="Allow this code").click()
    expect(page.locator("#id-typed-error")).to_be_visible()
    page.get_by_label(re.compile("to allow it")).fill(page.locator("label[for=id-typed] .mono").inner_text())
    page.get_by_role("button", name="Allow this code").click()
    expect(page.get_by_text("Runs code of its own.")).to_be_visible()
    looks_right(page, "own-code-allowed")
    page.get_by_role("button", name="Withdraw the leave").click()
    page.get_by_role("button", name="Withdraw", exact=True).click()
    expect(page.get_by_text("may run no more")).to_be_visible()
