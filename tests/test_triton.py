"""What only Triton has: its dynamic batcher, its response cache and metrics, and NVIDIA's own front end."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from playground import catalogue, engines
from playground.engines.base import LAUNCHERS, Hardware, LocalModel, ReasonCode
from tests import real_engines
from tests.real_engines import Running, body, running

CPU = Hardware(cores=2, memory_bytes=8 << 30)
OPTIONS = {
    "context": 512,
    "parallel": 2,
    "max_batch_size": 2,
    "preferred_batch_size": 2,
    "queue_delay_us": 200_000,
    "max_queue_size": 2,
    "response_cache_mib": 16,
}


# NVIDIA's front end, whose container is not here: a stand-in that takes what its main.py takes


MAIN = """
import argparse, json, os, pathlib, sys
parser = argparse.ArgumentParser()
for name in ("model-repository", "tokenizer", "backend", "host", "openai-port"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--tritonserver-log-verbose-level", required=True)
parser.add_argument("--default-max-tokens", type=int, default=16)
parser.add_argument("--openai-restricted-api", nargs=3, action="append")
given = vars(parser.parse_args())
files = {str(one.relative_to(given["model_repository"])): one.read_text()
         for one in pathlib.Path(given["model_repository"]).rglob("*") if one.is_file()}
seen = pathlib.Path(f"/proc/{os.getpid()}/cmdline").read_text()
told = {"given": given, "files": files, "cmdline": seen, "beside": sys.path[0]}
print(json.dumps(told | {"environment": dict(os.environ)}))
"""


def frontend(folder: Path, main: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the launcher as the adapter says, with NVIDIA's files in `folder` instead of the container's."""
    adapter = engines.get("triton")
    typed = adapter.Options.model_validate({"program": "openai-frontend", **options})
    model = LocalModel(name="tiny", path=Path("/models/tiny"), kind="safetensors", context_length=8192)
    line = adapter.command(Path("/nowhere"), model, typed, 4711, "tiny", CPU)
    assert line[:3] == ["/usr/bin/python3", "-u", str(LAUNCHERS / "triton_frontend.py")]
    if main:
        (folder / "main.py").write_text(main)
    patched = f"import pathlib, sys; sys.path.insert(0, {str(LAUNCHERS)!r}); import triton_frontend as one; "
    patched += f"one.FRONTEND = pathlib.Path({str(folder)!r}); one.main()"
    return subprocess.run(
        [sys.executable, "-c", patched, *line[3:]],
        env=os.environ | adapter.environment(typed, "canary-key", folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_nvidia_s_front_end_is_given_the_weights_where_they_lie(tmp_path: Path) -> None:
    done = frontend(tmp_path, MAIN, context=4096, dtype="bfloat16")
    told = json.loads(done.stdout or done.stderr)
    given = told["given"]
    assert (given["host"], given["openai_port"], given["backend"]) == ("127.0.0.1", "4711", "vllm")
    assert given["tokenizer"] == "/models/tiny" and given["default_max_tokens"] == 4096
    weights = {"model": "/models/tiny", "max_model_len": 4096, "dtype": "bfloat16"}
    assert json.loads(told["files"]["tiny/1/model.json"]) == weights
    assert 'backend: "vllm"' in told["files"]["tiny/config.pbtxt"]
    assert told["beside"] == str(tmp_path), "its own modules are found"


def test_nvidia_s_front_end_asks_for_the_key_that_no_command_line_shows(tmp_path: Path) -> None:
    told = json.loads(frontend(tmp_path, MAIN).stdout)
    guarded = ["inference,model-repository,metrics", "authorization", "Bearer canary-key"]
    assert told["given"]["openai_restricted_api"] == [guarded]
    assert "canary-key" not in told["cmdline"] + json.dumps(told["environment"])


@pytest.mark.parametrize(
    ("main", "words"),
    [("", "from NVIDIA's container"), ("print('old')", "too old, its front end asks for no key")],
)
def test_a_node_without_it_or_with_an_old_one_says_so(tmp_path: Path, main: str, words: str) -> None:
    done = frontend(tmp_path, main)
    reason = engines.get("triton").explain(done.stderr.splitlines(), done.returncode)
    assert done.returncode and reason is not None
    assert reason.code == ReasonCode.UNKNOWN_OPTION and words in reason.text


# The real one


# No process ever has this number.
LEFT = Path("/dev/shm/pytrtion4194305-left")


@pytest.fixture(scope="module")
def live(django_db_setup: None, django_db_blocker: Any, home: Path) -> Iterator[Running]:
    with django_db_blocker.unblock():
        _, form = real_engines.demo("safetensors")
        LEFT.write_bytes(b"of a server that was killed")
        with running("triton", catalogue.local(form), OPTIONS) as engine:
            yield engine


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as one:
        yield one


def real(test: Any) -> Any:
    """With Triton itself. The fixture needs the database; without the mark it would not be made."""
    return pytest.mark.engines(pytest.mark.slow(pytest.mark.django_db(test)))


async def post(session: aiohttp.ClientSession, live: Running, **more: Any) -> tuple[int, Any]:
    url = live.base_url + "/v1/chat/completions"
    async with session.post(url, json=body(**{"text": "Hello", **more}), headers=live.headers) as answer:
        return answer.status, await answer.json()


@real
async def test_it_tells_triton_s_own_metrics_beside_its_face_s(
    live: Running, session: aiohttp.ClientSession
) -> None:
    before = await live.metrics(session)
    assert (await post(session, live, max_tokens=3, stream=False, temperature=1))[0] == 200
    after = await live.metrics(session)
    assert after["nv_inference_request_success"] == before["nv_inference_request_success"] + 1
    assert after["triton:generation_tokens_total"] == before["triton:generation_tokens_total"] + 3


@real
async def test_requests_that_come_together_go_in_one_batch(
    live: Running, session: aiohttp.ClientSession
) -> None:
    before = await live.metrics(session)
    asked = [post(session, live, text=f"Number {n}", max_tokens=3, temperature=1) for n in range(2)]
    assert [status for status, _ in await asyncio.gather(*asked)] == [200, 200]
    after = await live.metrics(session)
    name = "nv_inference_exec_count"
    assert after["nv_inference_count"] - before["nv_inference_count"] == 2
    assert after[name] - before[name] == 1


@real
async def test_an_equal_greedy_request_is_answered_from_the_cache(
    live: Running, session: aiohttp.ClientSession
) -> None:
    first = (await post(session, live, text="Once upon a time", max_tokens=6))[1]
    before = await live.metrics(session)
    second = (await post(session, live, text="Once upon a time", max_tokens=6))[1]
    after = await live.metrics(session)
    assert second["choices"][0]["message"] == first["choices"][0]["message"]
    assert after["nv_cache_num_hits_per_model"] == before["nv_cache_num_hits_per_model"] + 1


@real
async def test_more_than_its_queue_holds_is_refused(live: Running, session: aiohttp.ClientSession) -> None:
    asked = [
        post(session, live, text=f"Story {n}", max_tokens=60, temperature=1, ignore_eos=True)
        for n in range(12)
    ]
    found = await asyncio.gather(*asked)
    assert {status for status, _ in found} == {200, 503}
    refused = next(data for status, data in found if status == 503)
    assert refused["error"]["code"] == "queue_full"
    assert (await post(session, live, max_tokens=1))[0] == 200


@real
async def test_memory_of_a_killed_server_is_given_back_at_the_next_start_and_no_other(live: Running) -> None:
    assert not LEFT.exists()
    assert list(LEFT.parent.glob(f"pytrtion{live.process.pid}-*")), "it is named otherwise now"


@real
async def test_a_killed_launcher_s_group_leaves_no_server(live: Running) -> None:
    """Last: it ends it. Triton's server outlives its parent, unless its group is killed."""
    family = [
        psutil.Process(live.process.pid),
        *psutil.Process(live.process.pid).children(recursive=True),
    ]
    assert any("tritonserver" in one.name() for one in family)
    assert {os.getpgid(one.pid) for one in family} == {live.process.pid}
    os.killpg(live.process.pid, 9)
    live.process.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
