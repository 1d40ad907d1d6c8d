"""Batches in a real browser: a table mended, asked of two columns and downloaded; pages by themselves."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from playground import cells, events
from playground.models import Batch, BatchColumn, BatchItem, Team, User
from tests import batch_rows, batch_tables, fleet
from tests.e2e.axe import violations
from tests.fleet import Fleet

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
Opener = Callable[..., Page]
ROWS = 30


def table(*, mended: bool) -> str:
    """A CSV of questions; unmended its lines 4 and 9 have a cell too many and one too few."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["question", "note"])
    for number in range(1, ROWS + 1):
        writer.writerow([f"[[tokens=6]] Question {number}?", "=1+1" if number == 2 else "plain"])
    lines = file.getvalue().splitlines()
    if not mended:
        lines[3] += ",more"
        lines[8] = "alone"
    return "\n".join(lines) + "\n"


@pytest.fixture
def fleet_of_one(db: None) -> Iterator[Fleet]:
    """This machine's worker."""
    workers = Fleet()
    workers.work(SLIPWAY_LEASE_S="5")
    yield workers
    workers.close()


def downloaded(page: Page, name: str) -> bytes:
    """What the link of that name gives."""
    menu = page.locator("details.files")
    if menu.get_attribute("open") is None:
        menu.locator("summary").click()
    with page.expect_download() as download:
        menu.get_by_role("link", name=name).first.click()
    return download.value.path().read_bytes()


@pytest.mark.slow
def test_a_table_is_mended_asked_of_two_columns_and_downloaded(
    open_page: Opener, user: User, team: Team, fleet_of_one: Fleet, tmp_path: Path
) -> None:
    model = fleet.tiny_model(team)
    quick = fleet.start(team, model, token_delay_ms=20)
    slow = fleet.start(team, model, token_delay_ms=60)
    for deployment in (quick, slow):
        fleet.ready(deployment)
    page = open_page(user)
    page.goto("/datasets/new/")
    (tmp_path / "questions.csv").write_text(table(mended=False))
    page.locator("#dataset-upload").set_input_files(tmp_path / "questions.csv")
    expect(page.get_by_role("heading", name="2 lines cannot be used")).to_be_visible()
    expect(page.locator(".bad-lines tbody tr td:first-child")).to_have_text(["4", "9"])
    (tmp_path / "mended.csv").write_text(table(mended=True))
    page.locator("#dataset-upload").set_input_files(tmp_path / "mended.csv")
    page.get_by_role("button", name=f"Save {ROWS} rows").click()
    page.get_by_role("link", name="Run a batch").click()

    expect(page.locator("#estimate")).to_contain_text("Choose rows and who answers them")
    for deployment in (quick, slow):
        page.locator(f"input[name=deployment][value='{deployment.pk}']").check()
    expect(page.locator("#estimate")).to_contain_text("How long it takes is not known")
    page.get_by_role("button", name="Try 20 rows").click()
    expect(page.locator("#estimate")).to_contain_text("by 20 trial rows, 4 at once")
    expect(page.locator("#estimate")).to_contain_text("About")
    assert violations(page) == []
    page.get_by_label("Max tokens").fill("a lot")
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_text("Max tokens is a whole number")).to_be_visible()
    page.get_by_label("Max tokens").fill("64")
    page.get_by_label("Name").fill("Two columns")
    page.get_by_role("button", name="Begin").click()

    expect(page.get_by_role("heading", name="Two columns")).to_be_visible()
    # From here on nothing is loaded anew: rows, totals and state come by themselves.
    expect(page.locator("#rows .said")).to_have_count(2 * ROWS, timeout=60_000)
    expect(page.locator("#live .state").first).to_have_text("completed", timeout=20_000)
    expect(page.locator("#toasts")).to_contain_text("Batch Two columns is completed.")
    expect(page.locator("svg.histogram")).to_have_count(2)
    expect(page.locator("#report tbody tr").first).to_contain_text(str(ROWS))
    assert violations(page) == []
    page.locator("#row-2").get_by_role("link").first.click()
    expect(page.locator("#row")).to_contain_text("word5")
    expect(page.get_by_role("region", name="Asked")).to_contain_text("Question 2?")
    assert violations(page) == []
    page.go_back()

    batch = Batch.objects.get(name="Two columns")
    assert batch.columns.count() == 2 and batch.parameters == {"max_tokens": 64}
    lines = downloaded(page, "JSONL").decode().splitlines()
    assert len(lines) == ROWS and all(json.loads(line)["error"] is None for line in lines)
    sheet = list(csv.DictReader(io.StringIO(downloaded(page, "CSV").decode("utf-8-sig"), newline="")))
    assert len(sheet) == ROWS and sheet[1]["cell.note"] == "'=1+1" and cells.plain("'=1+1") == "=1+1"
    assert all(row["1.answer"] == row["2.answer"] != "" for row in sheet)
    columns = pyarrow.parquet.read_table(io.BytesIO(downloaded(page, "Parquet"))).to_pydict()
    assert columns["row"] == list(range(1, ROWS + 1)) and columns["cell.note"][1] == "=1+1"


# By themselves


@pytest.fixture
def made(team: Team, user: User) -> tuple[Batch, list[BatchColumn]]:
    """A hundred and twenty rows, a part of them answered, some of those failed."""
    version = batch_rows.version(team, [f"What is the capital of country {n}?" for n in range(1, 121)])
    batch, columns = batch_tables.batch(team, version, name="Capitals", created_by=user)
    for place, column in enumerate(columns):
        for number in range(1, 61 - 10 * place):
            if number % 20 == 7 and not place:
                batch_tables.fail(column, number, "The prompt was too long.")
            else:
                words = "Paris" if number % 9 else f"Paris, by {place}"
                timings = {"ttft": 20.0 + number, "e2e": 200.0 + 3 * number}
                batch_tables.answer(column, number, words, timings=timings)
    return batch, columns


def test_rows_fill_in_and_the_end_is_told_wherever_one_is(
    open_page: Opener, user: User, made: tuple[Batch, list[BatchColumn]]
) -> None:
    batch, (one, _) = made
    page, other = open_page(user), open_page(user)
    page.goto(f"/batches/{batch.pk}/?from=101")
    other.goto("/nodes/")
    for opened in (page, other):
        expect(opened.locator("html")).to_have_attribute("data-socket", "open")
    expect(page.locator("#row-101")).to_contain_text("waiting")
    batch_tables.answer(one, 101, "Bern, <b>in short</b>")
    events.notify(batch.team_id, f"batch:{batch.pk}")
    expect(page.locator("#row-101 .said")).to_have_text("Bern, <b>in short</b>")
    expect(page.locator("#live")).to_contain_text("58 of 120")
    Batch.objects.filter(pk=batch.pk).update(state=Batch.State.COMPLETED, ended_at=timezone.now())
    events.notify(batch.team_id, f"batch:{batch.pk}", "batches")
    for opened in (page, other):
        expect(opened.locator("#toasts")).to_contain_text("Batch Capitals is completed.")
        expect(opened.locator("#toasts > *")).to_have_count(1)


def test_rows_are_paged_filtered_ordered_and_opened(
    open_page: Opener, user: User, made: tuple[Batch, list[BatchColumn]]
) -> None:
    batch, (one, _) = made
    page = open_page(user)
    page.goto(f"/batches/{batch.pk}/")
    rows = page.locator("#rows tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Next").click()
    expect(rows.first).to_have_id("row-51")
    page.go_back()
    expect(rows.first).to_have_id("row-1")
    page.get_by_label("Show", exact=True).select_option("failed")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("The prompt was too long.")
    page.get_by_label("Show", exact=True).select_option("differs")
    # The fifth failed in the first column.
    expect(rows).to_have_count(4)
    page.get_by_label("Show", exact=True).select_option("all")
    page.get_by_label("Order").select_option(f"-ttft:{one.pk}")
    expect(rows.first).to_have_id("row-60")
    page.get_by_label("Show", exact=True).select_option("failed")
    rows.first.get_by_role("link").click()
    expect(page.locator("#row .panel")).to_have_count(2)
    expect(page.locator("#row")).to_contain_text("too_long")
    page.get_by_role("link", name="Row 8").click()
    expect(page.get_by_text("capital of country 8?")).to_be_visible()


def test_it_is_paused_resumed_retried_and_cancelled(
    open_page: Opener, user: User, made: tuple[Batch, list[BatchColumn]]
) -> None:
    batch, (one, _) = made
    page = open_page(user)
    page.goto(f"/batches/{batch.pk}/")
    live = page.locator("#live")
    live.get_by_role("button", name="Pause").click()
    expect(live.locator(".state").first).to_have_text("paused")
    live.get_by_role("button", name="Resume").click()
    live.get_by_role("button", name="Retry 3 failed").click()
    expect(page.locator("#toasts")).to_contain_text("3 rows asked again.")
    assert BatchItem.objects.filter(column=one, attempt=1, state="waiting").count() == 3
    live.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the batch").click()
    expect(live).to_contain_text("not asked")
    assert violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_narrow_screen(
    open_page: Opener, user: User, made: tuple[Batch, list[BatchColumn]], scheme: str
) -> None:
    batch, (one, two) = made
    page = open_page(user, width=400, color_scheme=scheme)
    chosen = "".join(f"&deployment={column.deployment_id}" for column in (one, two))
    new = f"/batches/new/?version={batch.version_id}{chosen}"
    for address in ("/batches/", f"/batches/{batch.pk}/", f"/batches/{batch.pk}/rows/7/", new):
        page.goto(address)
        expect(page.locator("html")).to_have_attribute("data-socket", "open")
        if address.endswith(f"{batch.pk}/"):
            expect(page.locator("svg.histogram")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, address
        assert violations(page) == [], address
