"""Engine environments: installed for real by uv, named by what was resolved, shared, removed."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from playground import environments, jobs, packages
from playground.models import (
    Configuration,
    Deployment,
    EngineEnvironment,
    Job,
    Model,
    ModelFormat,
    Node,
    Replica,
    Team,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def node(team: Team) -> Iterator[Node]:
    """This node, with no environment yet."""
    root = settings.HOME / "environments"
    shutil.rmtree(root, ignore_errors=True)
    yield Node.objects.get_or_create(name=settings.NODE_NAME)[0]
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def installed(node: Node) -> EngineEnvironment:
    """llama.cpp, really installed here."""
    job = environments.ensure(node, "llama.cpp")
    assert isinstance(job, Job)
    assert jobs.run(job.pk) == Job.State.DONE
    found = environments.ensure(node, "llama.cpp")
    assert isinstance(found, EngineEnvironment)
    return found


def test_it_installs_an_engine_that_runs(installed: EngineEnvironment) -> None:
    folder = environments.path(installed)
    assert folder.name == installed.digest[:12]
    done = subprocess.run(
        [str(folder / "bin" / "python"), "-c", "import xllamacpp; print(xllamacpp.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == installed.version
    assert environments.on_disk() == [installed.digest]
    assert environments.installed() == [installed]
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_its_digest_is_over_what_was_resolved(installed: EngineEnvironment) -> None:
    listed = installed.packages.splitlines()
    assert f"xllamacpp=={installed.version}" in listed
    assert installed.digest == environments.digest_of("llama.cpp", installed.version, "cpu", listed)
    assert installed.digest != environments.digest_of("llama.cpp", installed.version, "cuda", listed)
    assert installed.digest != environments.digest_of(
        "llama.cpp", installed.version, "cpu", [*listed, "x==1"]
    )


def test_asking_again_makes_no_second_job(installed: EngineEnvironment, node: Node) -> None:
    assert environments.ensure(node, "llama.cpp") == installed
    assert environments.ensure(node, "llama.cpp", exactly=installed) == installed
    assert Job.objects.count() == 1


def test_it_is_made_again_from_its_own_list(installed: EngineEnvironment, node: Node) -> None:
    shutil.rmtree(environments.path(installed))
    job = environments.ensure(node, "llama.cpp", exactly=installed)
    assert isinstance(job, Job) and job.arguments["digest"] == installed.digest
    assert jobs.run(job.pk) == Job.State.DONE
    assert environments.on_disk() == [installed.digest]
    assert EngineEnvironment.objects.count() == 1


def test_another_node_is_asked_to_make_the_same_one(installed: EngineEnvironment) -> None:
    other = Node.objects.create(name="other")
    job = environments.ensure(other, "llama.cpp")
    assert isinstance(job, Job)
    assert (job.node, job.arguments["digest"]) == (other, installed.digest)
    other.inventory = {"environments": [installed.digest]}
    assert environments.ensure(other, "llama.cpp") == installed


def test_a_home_with_a_new_database_keeps_its_environments(installed: EngineEnvironment, node: Node) -> None:
    digest = installed.digest
    EngineEnvironment.objects.all().delete()
    found = environments.ensure(node, "llama.cpp")
    assert isinstance(found, EngineEnvironment)
    assert found.digest == digest
    assert found.packages == installed.packages


def test_an_engine_without_packages_needs_no_job(node: Node) -> None:
    found = environments.ensure(node, "fake")
    assert isinstance(found, EngineEnvironment)
    assert environments.ensure(node, "fake") == found


def test_an_unknown_version_fails_with_the_reason(node: Node) -> None:
    job = environments.ensure(node, "llama.cpp", "0.0.999")
    assert isinstance(job, Job)
    assert jobs.run(job.pk) == Job.State.FAILED
    job.refresh_from_db()
    assert "xllamacpp" in job.error and "0.0.999" in job.error
    assert environments.on_disk() == []
    assert list((settings.HOME / "environments").iterdir()) == []


def test_a_version_that_is_no_version_is_refused(node: Node) -> None:
    for version in ("1; touch x", "--index-url=x", "../x", "1\n2", ""):
        if version:
            with pytest.raises(jobs.JobRefused):
                environments.ensure(node, "llama.cpp", version)


def test_it_is_removed_when_nobody_uses_it(installed: EngineEnvironment, node: Node) -> None:
    job = environments.remove(installed, node)
    assert jobs.run(job.pk) == Job.State.DONE
    assert environments.on_disk() == []
    assert list((settings.HOME / "environments").iterdir()) == []


def test_it_is_not_removed_while_a_replica_uses_it(
    installed: EngineEnvironment, node: Node, team: Team
) -> None:
    model = Model.objects.create(team=team, name="tiny", source="local:tiny")
    form = ModelFormat.objects.create(model=model, kind="gguf", path="tiny.gguf", digest="f" * 64)
    configuration = Configuration.objects.create(
        digest="c" * 64,
        canonical="{}",
        model=model,
        format=form,
        format_digest=form.digest,
        environment=installed,
        engine="llama.cpp",
    )
    deployment = Deployment.objects.create(
        team=team, name="held", model=model, engine="llama.cpp", configuration=configuration
    )
    replica = Replica.objects.create(
        deployment=deployment, configuration=configuration, node=node, state=Replica.State.READY
    )
    with pytest.raises(jobs.JobRefused, match="held"):
        environments.remove(installed, node)
    Replica.objects.filter(pk=replica.pk).update(state=Replica.State.STOPPED)
    job = environments.remove(installed, node)
    Replica.objects.filter(pk=replica.pk).update(state=Replica.State.LOST)
    assert jobs.run(job.pk) == Job.State.FAILED, "it is asked again when the job runs"
    assert environments.on_disk() == [installed.digest]


# What pip's configuration says


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A pip configuration of this test's own; the machine's is out of sight."""
    for name in [name for name in packages.os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    for name in ("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    file = tmp_path / "pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    packages._pip_options.cache_clear()
    yield file
    packages._pip_options.cache_clear()


def test_uv_is_told_what_pip_is_told(pip: Path) -> None:
    pip.write_text(
        "[global]\nfind-links = /a /b\nindex-url = https://mirror/simple\n[install]\nconstraint = /c\n"
    )
    assert packages.variables() == {
        "UV_FIND_LINKS": "/a,/b",
        "UV_DEFAULT_INDEX": "https://mirror/simple",
        "UV_CONSTRAINT": "/c",
        "UV_SYSTEM_CERTS": "1",
    }
    assert packages.constraint_files() == ["/c"]


def test_the_environment_wins_over_pips_files(pip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip.write_text("[global]\nfind-links = /a\n")
    monkeypatch.setenv("PIP_FIND_LINKS", "/b")
    assert packages.variables() == {"UV_FIND_LINKS": "/b", "UV_SYSTEM_CERTS": "1"}
    monkeypatch.setenv("UV_FIND_LINKS", "/c")
    assert packages.variables() == {"UV_SYSTEM_CERTS": "1"}


def test_cpu_builds_in_a_folder_are_pinned(pip: Path, tmp_path: Path) -> None:
    for name in (
        "torch-2.9.0+cpu-cp311-cp311-linux_x86_64.whl",
        "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl",
        "torch-2.14.0+cpu-cp312-cp312-linux_x86_64.whl",
        "numpy-2.0-cp311-cp311-linux_x86_64.whl",
    ):
        (tmp_path / name).touch()
    pip.write_text(f"[global]\nfind-links = {tmp_path}\n")
    assert packages.cpu_pins("3.11") == ["torch==2.13.0+cpu"]
    assert packages.cpu_pins("3.12") == ["torch==2.14.0+cpu"]
    assert packages.cpu_pins("3.13") == []


@pytest.mark.parametrize("marker", ["{", "[]", '{"digest": "abc"}'])
def test_a_folder_that_does_not_say_what_it_is_counts_as_not_there(db: None, marker: str) -> None:
    folder = settings.HOME / "environments" / "strange"
    folder.mkdir(parents=True)
    (folder / environments.MARKER).write_text(marker)
    try:
        assert "abc" not in environments.on_disk()
        environments.adopt()
        assert not EngineEnvironment.objects.filter(digest="abc").exists()
    finally:
        shutil.rmtree(folder)
