"""Downloads from the Hub: whole and checked, or refused with the reason; what is cut goes on."""

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.utils import timezone

from playground import catalogue, deployments, hub_models, jobs, partial, reconcile, secrets, weights
from playground import hub as the_hub
from playground.models import Deployment, Job, Model, Node, Replica, Team, User
from tests.fleet import until
from tests.hub_repos import CONFIG, gguf, safetensors, tiny_files
from tests.hub_stand_in import TOKEN, HubStandIn

pytestmark = pytest.mark.django_db(transaction=True)
LARGE = "model.safetensors"


@pytest.fixture(autouse=True)
def root(settings: Any) -> Iterator[Path]:
    """An empty models folder, and no waiting between attempts."""
    settings.DOWNLOAD_RETRY_S = [0.0]
    the_hub.forget_troubles()
    folder: Path = settings.HOME / "models"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def node(team: Team) -> Node:
    inventory = {"cores": 2, "memory_bytes": 8 << 30, "memory_available_bytes": 8 << 30, "gpus": []}
    given = {"heartbeat_at": timezone.now(), "inventory": inventory}
    return Node.objects.update_or_create(name=settings.NODE_NAME, defaults=given)[0]


@pytest.fixture
def big(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> HubStandIn:
    """me/big: weights of 1 MB in pieces of 256 kB."""
    monkeypatch.setattr(partial, "PIECE", 256 << 10)
    hub.add("me/big", tiny_files() | {LARGE: safetensors({"weight": [512, 1024]})})
    return hub


def added(repo: str, team: Team, *keys: str, user: User | None = None) -> Model:
    return hub_models.add(the_hub.repository(repo), keys, team, user)


def wanted(model: Model, name: str) -> Deployment:
    """A deployment of it on the fake engine, after one pass of the control plane."""
    row = deployments.request(team=model.team, user=None, model=model, engine="fake", options={}, name=name)
    reconcile.settle(row.pk)
    return row


def asked(model: Model, node: Node) -> Job:
    job = hub_models.download(model, model.formats.get(), node, None)
    assert isinstance(job, Job)
    return job


def run(job: Job) -> Job:
    jobs.run(job.pk)
    job.refresh_from_db()
    return job


def in_thread(job: Job) -> threading.Thread:
    def work() -> None:
        try:
            jobs.run(job.pk)
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def asked_of(stand_in: HubStandIn, name: str) -> list[str]:
    """The ranges of a file that its CDN was asked for."""
    return [one.range for one in stand_in.seen if one.server == "cdn" and one.path.endswith(name)]


def start_of(part: str) -> int:
    return int(part.removeprefix("bytes=").partition("-")[0])


def came_once(stand_in: HubStandIn) -> bool:
    """Whether each piece of the weights was asked for, and none a second time."""
    starts = sorted(start_of(one) for one in asked_of(stand_in, LARGE))
    return starts == list(range(0, 5 * partial.PIECE, partial.PIECE))


def length(part: str) -> int:
    """Bytes of "bytes=12-99"."""
    start, _, end = part.removeprefix("bytes=").partition("-")
    return int(end) - int(start) + 1


def step_of(job: Job) -> str:
    job.refresh_from_db()
    return str(job.progress.get("step", ""))


def has_half(job: Job) -> bool:
    job.refresh_from_db()
    return (job.progress.get("done") or 0) >= 512 << 10


def left_overs(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob(".*.part*"))


def test_it_brings_the_files_of_a_form_and_no_others(
    hub: HubStandIn, team: Team, node: Node, root: Path
) -> None:
    hub.add_tiny()
    model = added("tiny-org/tiny-llama", team)
    job = run(asked(model, node))
    assert (job.state, job.error) == ("done", "")
    form = model.formats.get()
    folder = root / form.path
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert form.digest == weights.digest(folder), "as if all of it had been read again"
    assert catalogue.on_disk() == [form.digest]
    assert catalogue.ensure(node, model, "safetensors") == form
    assert left_overs(root) == []
    assert model.source == f"hub:tiny-org/tiny-llama@{hub.commit('tiny-org/tiny-llama')}"


def test_it_goes_on_where_the_connection_was_cut(big: HubStandIn, team: Team, node: Node, root: Path) -> None:
    big.cut(LARGE, at=0.99)
    model = added("me/big", team)
    job = run(asked(model, node))
    assert job.state == "done", job.error
    cut = 1 << 20
    ranges = asked_of(big, LARGE)
    again = [start_of(one) for one in ranges if start_of(one) % partial.PIECE]
    assert len(again) == 1, "the cut piece is asked for once more"
    assert again[0] > 0.98 * cut, "from where it ended"
    assert "cut at" in job.log_tail
    assert weights.digest(root / model.formats.get().path) == model.formats.get().digest


def test_what_came_is_kept_for_the_next_attempt(
    big: HubStandIn, team: Team, node: Node, root: Path, settings: Any
) -> None:
    settings.DOWNLOADS_AT_ONCE = 1
    big.cut(LARGE, at=0.9, times=100)
    model = added("me/big", team)
    failed = run(asked(model, node))
    assert failed.state == "failed"
    assert "does not come" in failed.error and "kept" in failed.error
    folder = root / model.formats.get().path
    assert not (folder / LARGE).exists(), "no half file has its name"
    assert left_overs(root) == [f".{LARGE}.part", f".{LARGE}.part.json"]

    big.heal()
    before = len(big.seen)
    assert run(asked(model, node)).state == "done"
    fetched = [one for one in big.seen[before:] if one.server == "cdn"]
    assert fetched
    assert min(start_of(one.range) for one in fetched) > 0.89 * (1 << 20), "nothing is fetched twice"
    assert left_overs(root) == []


def test_what_a_lost_machine_left_half_written_is_begun_anew(
    big: HubStandIn, team: Team, node: Node, root: Path
) -> None:
    model = added("me/big", team)
    folder = root / model.formats.get().path
    folder.mkdir(parents=True)
    (folder / f".{LARGE}.part").write_bytes(b"x" * 100)
    (folder / f".{LARGE}.part.json").write_text('{"promi')
    assert run(asked(model, node)).state == "done"


def test_a_wrong_hash_is_thrown_away_and_nothing_gets_its_name(
    big: HubStandIn, team: Team, node: Node, root: Path
) -> None:
    big.corrupt(LARGE)
    model = added("me/big", team)
    job = run(asked(model, node))
    assert (job.state, LARGE in job.error, "thrown away" in job.error) == ("failed", True, True)
    folder = root / model.formats.get().path
    assert not (folder / LARGE).exists()
    assert left_overs(root) == []
    assert model.formats.get().digest == ""
    big.heal()
    assert run(asked(model, node)).state == "done", "a later attempt is not spoilt"


def test_a_file_that_was_changed_here_is_fetched_again(
    big: HubStandIn, team: Team, node: Node, root: Path
) -> None:
    model = added("me/big", team)
    assert run(asked(model, node)).state == "done"
    lies = root / model.formats.get().path / LARGE
    whole = lies.read_bytes()
    lies.write_bytes(whole[:-1] + b"!")
    assert run(asked(model, node)).state == "failed"
    assert run(asked(model, node)).state == "done"
    assert lies.read_bytes() == whole


def test_another_size_than_the_commit_names_is_refused(hub: HubStandIn, team: Team, node: Node) -> None:
    hub.add("me/liar", tiny_files())
    model = added("me/liar", team)
    form = model.formats.get()
    files = [one | {"size": one["size"] + 7} if one["path"] == LARGE else one for one in form.files]
    type(form).objects.filter(pk=form.pk).update(files=files)
    job = run(asked(model, node))
    assert job.state == "failed"
    assert "by its commit" in job.error


def test_a_full_disk_stops_only_that_download(
    big: HubStandIn, team: Team, node: Node, settings: Any, root: Path
) -> None:
    settings.DISK_FREE = 1.0
    model = added("me/big", team)
    job = run(asked(model, node))
    assert job.state == "failed"
    assert "disk is too full" in job.error and "of room first" in job.error
    assert not [one for one in big.seen if one.server == "cdn"], "refused before a byte came"
    settings.DISK_FREE = 0.0
    assert run(asked(model, node)).state == "done"


def test_what_would_not_fit_beside_a_running_download_is_refused(
    big: HubStandIn, team: Team, node: Node
) -> None:
    running = jobs.request(Job.Kind.DOWNLOAD_MODEL, node, "format:0", {"format": 0}, team)
    progress = {"step": "downloading", "done": 0, "total": 1 << 60, "unit": "bytes"}
    Job.objects.filter(pk=running.pk).update(state="running", progress=progress)
    job = run(asked(added("me/big", team), node))
    assert job.state == "failed"
    assert "disk is too full" in job.error


def test_a_disk_that_fills_up_meanwhile_keeps_what_came(
    big: HubStandIn, team: Team, node: Node, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.pwrite, []

    def full(descriptor: int, block: Any, at: int) -> int:
        calls.append(at)
        if at > 500_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, block, at)

    monkeypatch.setattr(os, "pwrite", full)
    model = added("me/big", team)
    job = run(asked(model, node))
    assert (job.state, "The disk is full" in job.error) == ("failed", True)
    assert f".{LARGE}.part.json" in left_overs(root)
    monkeypatch.setattr(os, "pwrite", real)
    assert run(asked(model, node)).state == "done"


def test_cancel_ends_it_at_once_and_keeps_what_came(
    big: HubStandIn, team: Team, node: Node, user: User, root: Path
) -> None:
    gate = big.hold(LARGE, at=0.5)
    model = added("me/big", team)
    job = asked(model, node)
    thread = in_thread(job)
    until("half of it is here", lambda: has_half(job))
    assert jobs.cancel(job, user)
    thread.join(30)
    assert not thread.is_alive()
    gate.set()
    job.refresh_from_db()
    assert (job.state, job.error) == ("cancelled", "Cancelled by ada.")
    assert f".{LARGE}.part.json" in left_overs(root)
    assert not (root / model.formats.get().path / LARGE).exists()
    before = len(big.seen)
    assert run(asked(model, node)).state == "done"
    fetched = sum(
        length(one.range) for one in big.seen[before:] if one.path.endswith(LARGE) and one.server == "cdn"
    )
    assert fetched <= 0.6 * (1 << 20), "the half that was here is not fetched again"


def test_it_tells_bytes_rate_and_time_left(big: HubStandIn, team: Team, node: Node) -> None:
    gate = big.hold(LARGE, at=0.5)
    job = asked(added("me/big", team), node)
    thread = in_thread(job)

    def told() -> bool:
        job.refresh_from_db()
        return bool(job.progress.get("rate"))

    until("a rate is told", told)
    words = jobs.in_words(job.progress)
    gate.set()
    thread.join(30)
    assert re.fullmatch(r"downloading, 0\.\d of 1\.\d MB, [\d.]+ MB/s, [\d.]+ (s|min|h) left", words), words
    job.refresh_from_db()
    assert job.state == "done"
    assert [step["step"] for step in job.progress["past"]][:1] == ["downloading"]


def test_deployments_share_a_download_and_hold_nothing_meanwhile(
    big: HubStandIn, team: Team, node: Node
) -> None:
    model = added("me/big", team)
    rows = [wanted(model, "one"), wanted(model, "two")]
    job = Job.objects.get(kind=Job.Kind.DOWNLOAD_MODEL)
    for row in rows:
        assert row.replicas.get().state == "preparing"
        assert not row.replicas.filter(state__in=Replica.HOLDING).exists()
        assert "slots" not in row.replicas.get().resources
    assert run(job).state == "done"
    assert came_once(big)
    for row in rows:
        reconcile.settle(row.pk)
    assert Replica.objects.filter(state__in=Replica.HOLDING).exists(), "it takes its place once all is here"
    assert Job.objects.filter(kind=Job.Kind.DOWNLOAD_MODEL).count() == 1


def test_a_deployment_whose_download_was_cancelled_says_by_whom(
    big: HubStandIn, team: Team, node: Node, user: User
) -> None:
    row = wanted(added("me/big", team), "one")
    jobs.cancel(Job.objects.get(kind=Job.Kind.DOWNLOAD_MODEL), user)
    reconcile.settle(row.pk)
    row.refresh_from_db()
    assert "Cancelled by ada." in row.problem
    assert Job.objects.filter(kind=Job.Kind.DOWNLOAD_MODEL).count() == 1, "it does not begin again by itself"


def test_a_deployment_of_a_gated_model_says_what_to_do(hub: HubStandIn, team: Team, node: Node) -> None:
    hub.add_tiny()
    row = wanted(added("tiny-org/gated", team), "one")
    run(Job.objects.get(kind=Job.Kind.DOWNLOAD_MODEL))
    reconcile.settle(row.pk)
    row.refresh_from_db()
    assert "gated, and the team has no token" in row.problem
    assert row.replicas.latest("pk").reason_code == "gated"


def test_another_team_gets_the_same_files_without_fetching_them_again(
    big: HubStandIn, team: Team, node: Node, stranger: User
) -> None:
    gate = big.hold(LARGE, at=0.5)
    theirs = stranger.memberships.get().team
    mine, other = added("me/big", team), added("me/big", theirs)
    first = asked(mine, node)
    thread = in_thread(first)
    until("half of it is here", lambda: has_half(first))
    second = asked(other, node)
    assert second != first
    waiting = in_thread(second)
    until("the second waits", lambda: step_of(second).startswith("waiting for another"))
    gate.set()
    thread.join(30)
    waiting.join(30)
    assert (run(first).state, run(second).state) == ("done", "done")
    assert came_once(big)
    assert mine.formats.get().digest == other.formats.get().digest


def test_two_quantisations_that_share_what_lets_them_see_do_not_cross(
    hub: HubStandIn, team: Team, node: Node, root: Path
) -> None:
    names = ("a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj-a.gguf")
    hub.add("me/eyes", {name: gguf() for name in names}, gguf={"total": 64})
    gate = hub.hold("mmproj-a.gguf", at=0.5)
    model = added("me/eyes", team, *names[:2])
    started = [hub_models.download(model, form, node, None) for form in model.formats.order_by("pk")]
    threads = [in_thread(job) for job in started if isinstance(job, Job)]
    until("one of them waits", lambda: any(step_of(job).startswith("waiting") for job in started))
    gate.set()
    for thread in threads:
        thread.join(30)
    assert [(step_of(job), job.state, job.error) for job in started] == [("done", "done", "")] * 2
    assert sorted(path.name for path in root.rglob("*.gguf")) == sorted(names)


def test_the_token_opens_a_gated_model_and_goes_to_no_other_host(
    hub: HubStandIn, team: Team, node: Node, user: User
) -> None:
    hub.add_tiny()
    secrets.keep(team, secrets.HUB, TOKEN, user)
    job = run(asked(added("tiny-org/gated", team), node))
    assert (job.state, job.error) == ("done", "")
    told = {
        (one.server, bool(one.authorization))
        for one in hub.seen
        if "/resolve" in one.path or one.server == "cdn"
    }
    assert told == {("hub", True), ("cdn", False)}
    asked_of_api = [one for one in hub.seen if one.path.startswith("/api/models")]
    assert asked_of_api and not any(one.authorization for one in asked_of_api), "the downloader alone has it"
    log = (jobs.folder(job.pk) / "job.log").read_text()
    row = str(Job.objects.filter(pk=job.pk).values().get())
    assert TOKEN not in log + row


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "is gated, and the team has no token"),
        ("hf_AnotherTokenThatNobodyKnows", "token is not accepted yet: ask at"),
        ("broken-token-of-another-shape", "enter a new one"),
    ],
)
def test_a_gated_model_says_what_to_do(
    hub: HubStandIn, team: Team, node: Node, user: User, token: str, words: str
) -> None:
    hub.add_tiny()
    if token:
        secrets.keep(team, secrets.HUB, token, user)
    job = run(asked(added("tiny-org/gated", team), node))
    assert job.state == "failed"
    assert words in job.error
    assert not token or token not in job.error


def test_what_only_its_files_tell_is_refused_once_they_are_here(
    hub: HubStandIn, team: Team, node: Node, user: User, root: Path
) -> None:
    """A gated model's configuration is not read before: it may hide what is refused."""
    config = json.dumps(CONFIG | {"text_config": {"trust_remote_code": True}}).encode()
    hub.add("me/late", tiny_files() | {"config.json": config}, gated="manual")
    secrets.keep(team, secrets.HUB, TOKEN, user)
    model = added("me/late", team)
    job = run(asked(model, node))
    model.refresh_from_db()
    assert (job.state, job.error) == ("failed", model.refused)
    assert "config.json asks for remote code to be trusted" in model.refused
    assert not (root / model.formats.get().path).exists(), "what is refused does not stay"
    assert model.formats.get().digest == ""
    with pytest.raises(deployments.DeploymentRefused, match="remote code"):
        wanted(model, "one")


def test_a_repository_that_went_says_so(hub: HubStandIn, team: Team, node: Node) -> None:
    hub.add_tiny()
    model = added("tiny-org/tiny-llama", team)
    del hub.repos["tiny-org/tiny-llama"]
    job = run(asked(model, node))
    assert "any more, or it is private" in job.error


def test_it_waits_when_the_hub_says_so_and_goes_on(big: HubStandIn, team: Team, node: Node) -> None:
    model = added("me/big", team)
    big.limit(times=2)
    big.fail(503, times=2)
    job = run(asked(model, node))
    assert (job.state, job.error) == ("done", "")
    assert "429" in job.log_tail and "503" in job.log_tail


def test_an_address_that_expires_meanwhile_is_asked_for_again(
    big: HubStandIn, team: Team, node: Node, settings: Any
) -> None:
    settings.DOWNLOADS_AT_ONCE = 1
    gate = big.hold(LARGE, at=0.5)
    job = asked(added("me/big", team), node)
    thread = in_thread(job)
    until("half of it is here", lambda: has_half(job))
    big.signed += 1
    gate.set()
    thread.join(30)
    job.refresh_from_db()
    assert (job.state, job.error) == ("done", "")
    assert "has expired" in job.log_tail
    resolved = [one for one in big.seen if one.server == "hub" and one.path.endswith(LARGE)]
    assert len(resolved) == 2, "the Hub is asked once for each address"


def test_a_branch_that_moved_changes_nothing(hub: HubStandIn, team: Team, node: Node, root: Path) -> None:
    hub.add_tiny()
    model = added("tiny-org/tiny-llama", team)
    moved = hub.change("tiny-org/tiny-llama", {"config.json": b'{"architectures": ["Other"]}'})
    assert run(asked(model, node)).state == "done"
    assert b"LlamaForCausalLM" in (root / model.formats.get().path / "config.json").read_bytes()
    assert not [one for one in hub.seen if moved in one.path]


@pytest.mark.parametrize(
    "name", ["../../escape.safetensors", "/etc/passwd.safetensors", "a\x00b.safetensors", "a\\b.safetensors"]
)
def test_no_name_leads_out_of_its_folder(
    hub: HubStandIn, team: Team, node: Node, root: Path, name: str
) -> None:
    """Refused when it is added; and, should a row name it all the same, when it would be fetched."""
    hub.add("evil/path", tiny_files() | {name: safetensors()})
    with pytest.raises(hub_models.AddRefused):
        added("evil/path", team)
    hub.add_tiny()
    model = added("tiny-org/tiny-llama", team)
    form = model.formats.get()
    named = name.replace("\x00", "\x7f")
    type(form).objects.filter(pk=form.pk).update(files=[{"path": named, "size": 8, "sha256": "0" * 64}])
    job = run(asked(model, node))
    assert job.state == "failed"
    assert list(root.parent.rglob("escape*")) == []
    assert not [one for one in hub.seen if one.server == "cdn"]


def test_a_link_that_leads_out_is_not_written_through(
    hub: HubStandIn, team: Team, node: Node, root: Path, tmp_path: Path
) -> None:
    hub.add_tiny()
    model = added("tiny-org/tiny-llama", team)
    folder = root / model.formats.get().path
    folder.mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    (folder / "config.json").symlink_to(outside)
    run(asked(model, node))
    assert outside.read_bytes() == b"mine"
    assert not (folder / "config.json").is_symlink()


def test_a_moving_reference_is_never_fetched(hub: HubStandIn, team: Team, node: Node) -> None:
    hub.add_tiny()
    model = added("tiny-org/tiny-llama", team)
    Model.objects.filter(pk=model.pk).update(source="hub:tiny-org/tiny-llama@main")
    before = len(hub.seen)
    job = run(asked(model, node))
    assert "names no commit" in job.error
    assert len(hub.seen) == before
