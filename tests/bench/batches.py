"""Batches: whether faults lose or double a row, and how near the rows a second come to a bare client's.

Faults: the process that asks, or all of the worker, is killed at random, Redis is flushed, the engine is
killed; every row has one good result at the end, and their hash is that of a run without faults. Speed: rows
recorded a second, against aiohttp that only reads what the same engine streams, as many at once, in turns.

    .venv/bin/python -m tests.bench.batches --rows 10000 --kills 50 --flushes 2 --engine-kills 10
    .venv/bin/python -m tests.bench.batches --only speed --rounds 5 --speed-rows 3000 [--engine llama.cpp]
    .venv/bin/python -m tests.bench.batches --only run-batch --speed-rows 400
    .venv/bin/python -m tests.bench.batches --only memory --rows 50000

run-batch: vLLM behind us beside vLLM's own `run-batch`, with the same weights and options, its loading left
out. Memory: that of the process that asks, over one long batch.
"""

import argparse
import asyncio
import hashlib
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
QUICK = {"SLIPWAY_LEASE_S": "3"}
LONG_S = 3600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["faults", "speed", "run-batch", "memory"])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--flushes", type=int, default=2)
    parser.add_argument("--engine-kills", type=int, default=10)
    parser.add_argument("--speed-rows", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument(
        "--delay", type=float, default=15, help="Milliseconds between the fake engine's tokens."
    )
    parser.add_argument("--engine", default="fake", choices=["fake", "llama.cpp"])
    parser.add_argument("--seed", type=int, default=1)
    if __name__ != "__main__":  # After another bench: Django has that one's home.
        subprocess.run([sys.executable, "-m", "tests.bench.batches"], cwd=ROOT, check=True)
        return
    options = parser.parse_args()
    with site() as fleet:
        if options.only in (None, "faults"):
            faults(fleet, options)
        if options.only in (None, "speed"):
            speed(fleet, options)
        if options.only == "run-batch":
            run_batch(options)
        if options.only == "memory":
            memory(options)


@contextmanager
def site() -> Iterator[Any]:
    """A home with servers, migrated, and its worker."""
    from playground import servers
    from tests.home import HOME

    servers.start_postgres(HOME)
    servers.start_valkey(HOME)
    try:
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, check=True)
        import os

        os.environ["DJANGO_SETTINGS_MODULE"] = "playground.settings"
        import django

        django.setup()
        from tests.fleet import Fleet

        fleet = Fleet()
        fleet.work(**QUICK)
        try:
            yield fleet
        finally:
            fleet.close()
    finally:
        servers.stop_valkey(HOME)
        servers.stop_postgres(HOME)


# Faults


def faults(fleet: Any, options: argparse.Namespace) -> None:
    """The run without faults, the run with them, and what both came to."""
    from tests.fleet import ready, start, tiny_model

    deployment = start(team(), tiny_model(team()), tokens=6, token_delay_ms=20)
    ready(deployment)
    prompts = [f"[[text=answer number {number}]]" for number in range(options.rows)]
    plain, plain_s = whole(deployment, prompts)
    batch = begin(deployment, prompts)
    began = time.monotonic()
    told = harm(fleet, deployment, batch, options)
    wait(batch)
    took = time.monotonic() - began
    once = exactly_once(batch, options.rows)
    same = hash_of(batch) == hash_of(plain)
    print(f"{options.rows:,} rows: {plain_s:.0f} s without faults, {took:.0f} s with {dict(told)}")
    print(f"each row exactly once: {once}; hash equal to the run without faults: {same}")
    if not (once and same):
        sys.exit(1)


def harm(fleet: Any, deployment: Any, batch: Any, options: argparse.Namespace) -> Counter[str]:
    """Every fault in random order, each once so many more rows are recorded."""
    chance = random.Random(options.seed)
    wanted = ["kill"] * options.kills + ["flush"] * options.flushes + ["engine"] * options.engine_kills
    chance.shuffle(wanted)
    acts: dict[str, Callable[[], bool]] = {
        "kill": lambda: kill(fleet, whole_worker=chance.random() < 0.2),
        "flush": flush,
        "engine": lambda: kill_engine(deployment),
    }
    told: Counter[str] = Counter()
    for place, fault in enumerate(wanted):
        mark = options.rows * (place + 1) // (len(wanted) + 2)
        reached(batch, mark)
        until_done(acts[fault])
        told[fault] += 1
    return told


def until_done(act: Callable[[], bool]) -> None:
    """A fault whose victim does not live now waits for it."""
    until = time.monotonic() + LONG_S
    while not act():
        if time.monotonic() > until:
            sys.exit("a victim never came")
        time.sleep(0.1)


def kill(fleet: Any, *, whole_worker: bool) -> bool:
    """SIGKILL for the process that asks, or for the worker, which takes that one with it."""
    if whole_worker:
        fleet.workers["test-node"].kill()
        fleet.workers["test-node"].wait()
        fleet.work(**QUICK)
        return True
    found = asking()
    for process in found:
        process.kill()
    return bool(found)


def asking() -> list[Any]:
    """The processes that ask rows."""
    import psutil

    from tests.home import HOME

    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if line[-2:] == ["worker", "--batch"] and process.environ().get("SLIPWAY_HOME") == str(HOME):
                found.append(process)
        except psutil.Error:
            continue
    return found


def flush() -> bool:
    import redis
    from django.conf import settings

    redis.Redis.from_url(settings.REDIS_URL).flushall()
    return True


def kill_engine(deployment: Any) -> bool:
    from playground import processes
    from tests.fleet import engine_processes

    ready = deployment.replicas.filter(state="ready").first()
    found = engine_processes(ready) if ready else []
    processes.kill(found)
    return bool(found)


# Speed


def speed(fleet: Any, options: argparse.Namespace) -> None:
    """Rows recorded a second beside a bare client's, in turns."""
    from tests.fleet import ready, start, tiny_model

    if options.engine == "fake":
        shape = {"tokens": options.tokens, "token_delay_ms": options.delay, "slots": options.slots}
        deployment = start(team(), tiny_model(team()), **shape)
    else:
        deployment = real()
    ready(deployment, 120)
    bodies = [body(options.engine, number) for number in range(options.speed_rows)]
    at_once = warm_up(deployment, bodies)
    ratios = []
    for round_ in range(options.rounds):
        first = round_ % 2 == 0
        bare = bare_rate(deployment, bodies, at_once) if first else 0.0
        ours = recorded_rate(deployment, bodies)
        bare = bare or bare_rate(deployment, bodies, at_once)
        ratios.append(ours / bare)
        print(f"round {round_ + 1}: {ours:.1f} rows/s recorded, bare client {bare:.1f}: {ours / bare:.3f}")
    print(
        f"{options.engine}, {len(bodies)} rows, {at_once} at once: median {statistics.median(ratios):.3f}, "
        f"{min(ratios):.3f} to {max(ratios):.3f}"
    )


def real() -> Any:
    """The demo model on llama.cpp."""
    from playground import deployments
    from tests import real_engines

    real_engines.environment("llama.cpp")
    model, _ = real_engines.demo("gguf")
    return deployments.request(team=team(), user=None, model=model, engine="llama.cpp", options={})


# Beside vLLM's own


def run_batch(options: argparse.Namespace) -> None:
    """Ours, theirs, theirs, ours; each by itself on the machine."""
    from tests import real_engines

    real_engines.environment("vllm")
    model, form = real_engines.demo("safetensors")
    bodies = [body("vllm", number) for number in range(options.speed_rows)]
    rates: dict[str, list[float]] = {"ours": [], "run-batch": []}
    for who in ("ours", "run-batch", "run-batch", "ours"):
        if who == "run-batch":
            rates[who].append(their_rate(form, bodies))
        else:
            rates[who] += our_rates(model, bodies)
        print(f"{who}: {', '.join(f'{rate:.1f}' for rate in rates[who])} rows/s", flush=True)
    ours, theirs = (statistics.mean(found) for found in rates.values())
    print(f"vLLM, {len(bodies)} rows: {ours / theirs:.3f} of run-batch")


def our_rates(model: Any, bodies: Sequence[dict[str, Any]]) -> list[float]:
    """Of two runs after one to find how many at once; the engine is gone afterwards."""
    from playground import deployments
    from tests.fleet import ready, until

    given = {"max_model_len": 2048, "kv_cache_gib": 0.25}
    deployment = deployments.request(team=team(), user=None, model=model, engine="vllm", options=given)
    ready(deployment, 300)
    warm_up(deployment, bodies)
    rates = [recorded_rate(deployment, bodies) for _ in range(2)]
    deployments.stop(deployment, None)
    until("it has stopped", lambda: not alive(deployment), 60)
    return rates


def alive(deployment: Any) -> bool:
    from playground.models import Replica

    return bool(deployment.replicas.exclude(state__in=Replica.TERMINAL).exists())


def their_rate(form: Any, bodies: Sequence[dict[str, Any]]) -> float:
    """Rows a second by its own count, which begins when the engine has loaded."""
    import json
    import os
    import re
    import tempfile

    from django.conf import settings

    from playground import engines, environments
    from tests import real_engines

    adapter, path = engines.get("vllm"), settings.HOME / "models" / form.path
    typed = adapter.Options.model_validate({"max_model_len": 2048, "kv_cache_gib": 0.25})
    python = environments.path(real_engines.environment("vllm")) / "bin" / "python"
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        with given.open("w") as file:
            for number, one in enumerate(bodies):
                line = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions"}
                file.write(json.dumps({**line, "body": {"model": str(path), **one}}) + "\n")
        command = [str(python), "-m", "vllm.entrypoints.openai.run_batch", "-i", str(given), "-o", str(made)]
        command += ["--model", str(path), "--enforce-eager", "--max-model-len", "2048"]
        command += ["--kv-cache-memory-bytes", str(1 << 28)]
        environment = os.environ | adapter.environment(typed, "", settings.HOME)
        told = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
        output = told.stdout + told.stderr
        if told.returncode or not made.exists():
            sys.exit(f"run-batch ended with {told.returncode}:\n{output[-3000:]}")
        answers = [json.loads(line) for line in made.read_text().splitlines()]
        wrong = [one for one in answers if one["error"] or one["response"]["status_code"] != 200]
        if wrong or len(answers) != len(bodies):
            sys.exit(f"run-batch answered {len(answers)} rows, {len(wrong)} of them wrongly: {wrong[:1]}")
    found = re.findall(r"Running batch: 100%.*, +([\d.]+) ?(req/s|s/req)\]", output)
    if not found:
        sys.exit(f"run-batch tells no rate:\n{output[-3000:]}")
    value, unit = found[-1]
    return float(value) if unit == "req/s" else 1 / float(value)


# Memory


def memory(options: argparse.Namespace) -> None:
    """Resident bytes of the process that asks, from a tenth of the rows on."""
    from tests.fleet import ready, start, tiny_model

    deployment = start(team(), tiny_model(team()), tokens=6, token_delay_ms=20)
    ready(deployment)
    batch = begin(deployment, [f"Row {number}." for number in range(options.rows)])
    seen = []
    for tenth in range(1, 10):
        reached(batch, options.rows * tenth // 10)
        seen.append(sum(process.memory_info().rss for process in asking()) / 2**20)
        print(f"{options.rows * tenth // 10:,} rows: {seen[-1]:.1f} MB", flush=True)
    wait(batch)
    if not exactly_once(batch, options.rows):
        sys.exit("a row was lost or doubled")
    print(f"{options.rows:,} rows at {rate_of(batch):.0f} rows/s: {seen[0]:.1f} to {seen[-1]:.1f} MB")


def body(engine: str, number: int) -> dict[str, Any]:
    text = f"Row {number}." if engine == "fake" else f"Count on from {number}:"
    found: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
    return found if engine == "fake" else {**found, "max_tokens": 16, "temperature": 0}


def warm_up(deployment: Any, bodies: Sequence[dict[str, Any]]) -> int:
    """One run, which finds how many at once are enough; that many the bare client has, too."""
    batch, _ = whole(deployment, bodies)
    found = batch.columns.get().concurrency
    print(f"warm-up: {rate_of(batch):.1f} rows/s, {found} at once")
    return int(found)


def recorded_rate(deployment: Any, bodies: Sequence[dict[str, Any]]) -> float:
    batch, _ = whole(deployment, bodies)
    return rate_of(batch)


def rate_of(batch: Any) -> float:
    """From the first row's request to the last row's record."""
    from playground.models import BatchResult

    rows = BatchResult.objects.filter(column__batch=batch).order_by("created_at")
    first, last = rows[0], rows.latest("created_at")
    passed = (last.created_at - first.created_at).total_seconds() + first.timings["e2e"] / 1000
    return rows.count() / passed


def bare_rate(deployment: Any, bodies: Sequence[dict[str, Any]], at_once: int) -> float:
    """aiohttp that reads each stream to its end and does nothing with it."""
    from playground import deployments, engine_client
    from playground.answers import Question

    target = engine_client.target(deployments.ready_replicas(deployment)[0])
    asked = [Question(target, one, {}).body() for one in bodies]
    return len(bodies) / asyncio.run(_bare(target, asked, at_once))


async def _bare(target: Any, bodies: Sequence[dict[str, Any]], at_once: int) -> float:
    import aiohttp

    left = iter(bodies)
    url = target.base_url + "/v1/chat/completions"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(one: dict[str, Any]) -> bool:
            """Whether it was answered, and not sent on a kept connection that the server had closed."""
            try:
                async with session.post(url, json=one, headers=dict(target.headers)) as answer:
                    async for _ in answer.content.iter_any():
                        continue
            except aiohttp.ServerDisconnectedError:
                return False
            return True

        async def client() -> None:
            for one in left:
                while not await ask(one):
                    continue

        began = time.monotonic()
        await asyncio.gather(*(client() for _ in range(at_once)))
        return time.monotonic() - began


# Rows


def team() -> Any:
    from playground.models import Team

    return Team.objects.get_or_create(slug="default", defaults={"name": "Default"})[0]


def begin(deployment: Any, rows: Sequence[Any]) -> Any:
    from playground import batches
    from tests.batch_rows import version

    made = version(team(), rows, name=f"rows-{time.monotonic()}")
    return batches.begin(team(), None, "", made, [{"deployment": deployment}], {})


def whole(deployment: Any, rows: Sequence[Any]) -> tuple[Any, float]:
    """A batch of these, ended, and how long it took."""
    began = time.monotonic()
    batch = begin(deployment, rows)
    wait(batch)
    return batch, time.monotonic() - began


def wait(batch: Any) -> None:
    """Until it has ended; says how far it is where that takes long."""
    from playground import batches

    until, told = time.monotonic() + LONG_S, time.monotonic()
    while batch.state in batch.OPEN:
        if time.monotonic() > until:
            sys.exit(f"batch {batch.pk} does not end: {batches.counts(batch)}")
        if time.monotonic() > told + 30:
            told = time.monotonic()
            print(f"  {batches.counts(batch)}", flush=True)
        time.sleep(0.2)
        batch.refresh_from_db()


def reached(batch: Any, mark: int) -> None:
    from playground.models import BatchItem

    ended = BatchItem.objects.filter(column__batch=batch, state__in=["done", "failed"])
    until = time.monotonic() + LONG_S
    while ended.count() < mark:
        if time.monotonic() > until:
            sys.exit(f"{mark} rows were never reached")
        time.sleep(0.05)


def exactly_once(batch: Any, count: int) -> bool:
    from playground.models import BatchResult

    good = BatchResult.objects.filter(column__batch=batch, ok=True).order_by("number")
    return list(good.values_list("number", flat=True)) == list(range(1, count + 1))


def hash_of(batch: Any) -> str:
    from playground.models import BatchResult

    rows = BatchResult.objects.filter(column__batch=batch, ok=True).order_by("number")
    said = rows.values_list("number", "text", "finish_reason").iterator()
    digest = hashlib.sha256()
    for row in said:
        digest.update(repr(row).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
