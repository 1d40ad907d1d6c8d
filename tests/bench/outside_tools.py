"""vLLM's `bench serve` and guidellm as programs, and their definitions put to what our own client read.

Each function asks the replayer with one tool and gives its figures beside ours. RuntimeError, with the
reason, where a tool cannot be had.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.replayer import MODEL

ROOT = Path(__file__).parent.parent.parent
CACHE = Path(os.environ.get("SLIPWAY_TEST_CACHE", Path.home() / ".cache" / "slipway-tests"))
GUIDELLM = "guidellm==0.8.1"
PROMPT = "What is the capital of France?"
# vLLM's own `vllm` command fails in its build for processors, which has no metadata of that name.
VLLM = (
    "import argparse; from vllm.benchmarks.serve import add_cli_args, main;"
    "p = argparse.ArgumentParser(); add_cli_args(p); main(p.parse_args())"
)


@dataclass(frozen=True)
class Line:
    """One figure: ours by our definition, by the tool's, and the tool's own. None: it has none."""

    name: str
    ours: float | None
    by_theirs: float
    theirs: float

    @property
    def off(self) -> float:
        """Percent."""
        return 100 * (self.theirs / self.by_theirs - 1)


@dataclass(frozen=True)
class Asked:
    """One request of ours: the moments its chunks were read, and its end; seconds on one clock."""

    sent: float
    ended: float
    content: list[float]
    choices: list[float]
    tokens: int


@dataclass
class Ours:
    """A load run of ours at one level."""

    row: dict[str, Any]
    gap: float | None
    asked: list[Asked] = field(default_factory=list)

    def median(self, of: Callable[[Asked], float]) -> float:
        """Milliseconds."""
        return 1000 * statistics.median(of(one) for one in self.asked)

    def rate(self) -> float:
        """Tokens a second from the first sending to the last end."""
        span = max(one.ended for one in self.asked) - min(one.sent for one in self.asked)
        return sum(one.tokens for one in self.asked) / span


def vllm(port: int, at_once: int, requests: int, mine: Ours, folder: Path) -> list[Line]:
    """vLLM's `bench serve`, from its environment in the tests' cache."""
    python = _environment("vllm")
    tokenizer = CACHE / "models" / "SmolLM2-135M-Instruct" / "safetensors"
    if python is None or not tokenizer.is_dir():
        raise RuntimeError("no vLLM environment or no tokenizer in the tests' cache: run its tests once")
    line = [str(python), "-c", VLLM, "--backend", "openai-chat", "--base-url", f"http://127.0.0.1:{port}"]
    line += ["--endpoint", "/v1/chat/completions", "--model", MODEL, "--tokenizer", str(tokenizer)]
    line += ["--dataset-name", "random", "--random-input-len", "8", "--random-output-len", "48"]
    line += ["--num-prompts", str(requests), "--max-concurrency", str(at_once)]
    line += ["--num-warmups", str(at_once), "--save-result", "--save-detailed"]
    line += ["--percentile-metrics", "ttft,tpot,itl,e2el"]
    line += ["--result-dir", str(folder), "--result-filename", "vllm.json"]
    _run(line, folder)
    found = json.loads((folder / "vllm.json").read_text())
    assert found["completed"] == requests, found["errors"]
    itls = [gap for gaps in found["itls"] for gap in gaps]
    own = [later - sooner for one in mine.asked for sooner, later in itertools.pairwise(one.choices)]
    row = mine.row
    return [
        Line("TTFT, ms", row["ttft"]["p50"], mine.median(_to_choice), found["median_ttft_ms"]),
        Line("TPOT, ms", row["tpot"]["p50"], mine.median(_choice_tpot), found["median_tpot_ms"]),
        Line("ITL mean, ms", mine.gap, 1000 * statistics.mean(own), 1000 * statistics.mean(itls)),
        Line("E2E, ms", row["e2e"]["p50"], mine.median(_to_last_choice), found["median_e2el_ms"]),
        Line("output tok/s", row["tokens_s"], mine.rate(), found["output_throughput"]),
    ]


def guidellm(port: int, at_once: int, requests: int, mine: Ours, folder: Path) -> list[Line]:
    """guidellm, from an environment of its own in the tests' cache."""
    tokenizer = CACHE / "models" / "SmolLM2-135M-Instruct" / "safetensors"
    if not tokenizer.is_dir():
        raise RuntimeError("no tokenizer in the tests' cache: run vLLM's tests once")
    data, report = folder / "guide.jsonl", folder / "guide.json"
    data.write_text(f'{{"prompt": "{PROMPT}"}}\n' * (requests + 1))
    line = [str(_guidellm()), "run", "--disable-console"]
    line += ["--backend", f"kind=openai_http,target=http://127.0.0.1:{port},model={MODEL}"]
    line += ["--profile", f"kind=concurrent,streams={at_once}"]
    line += ["--constraint", f"kind=max_requests,count={requests}"]
    line += ["--tokenizer", f"kind=huggingface_auto,model={tokenizer}"]
    line += ["--data", f"kind=json_file,path={data}", "--output", f"kind=json,path={report}"]
    _run(line, folder)
    found = json.loads(report.read_text())["benchmarks"][0]["requests"]["successful"]
    assert len(found) == requests, f"guidellm completed {len(found)}"
    span = max(one["request_end_time"] for one in found) - min(one["request_start_time"] for one in found)

    def median(name: str) -> float:
        return float(statistics.median(one[name] for one in found))

    row = mine.row
    itl, tpot = median("inter_token_latency_ms"), median("time_per_output_token_ms")
    return [
        Line("TTFT, ms", row["ttft"]["p50"], mine.median(_to_content), median("time_to_first_token_ms")),
        Line("TPOT (its ITL), ms", row["tpot"]["p50"], mine.median(_content_tpot), itl),
        Line("its TPOT, ms", None, mine.median(_whole_tpot), tpot),
        Line("E2E, ms", row["e2e"]["p50"], mine.median(_to_end), 1000 * median("request_latency")),
        Line("output tok/s", row["tokens_s"], mine.rate(), sum(one["output_tokens"] for one in found) / span),
    ]


# Their definitions, in seconds, of a request of ours


def _to_choice(one: Asked) -> float:
    return one.choices[0] - one.sent


def _to_last_choice(one: Asked) -> float:
    return one.choices[-1] - one.sent


def _choice_tpot(one: Asked) -> float:
    return (one.choices[-1] - one.choices[0]) / (one.tokens - 1)


def _to_content(one: Asked) -> float:
    return one.content[0] - one.sent


def _content_tpot(one: Asked) -> float:
    return (one.content[-1] - one.content[0]) / (one.tokens - 1)


def _whole_tpot(one: Asked) -> float:
    return (one.content[-1] - one.sent) / one.tokens


def _to_end(one: Asked) -> float:
    return one.ended - one.sent


# Programs


def _environment(engine: str) -> Path | None:
    """The interpreter of that engine's newest environment in the cache."""
    markers = [path for path in (CACHE / "environments").glob("*/slipway.json") if _is(path, engine)]
    found = [
        path.parent / "bin" / "python" for path in sorted(markers, key=lambda path: path.stat().st_mtime)
    ]
    return found[-1] if found else None


def _is(marker: Path, engine: str) -> bool:
    return bool(json.loads(marker.read_text())["engine"] == engine)


def _guidellm() -> Path:
    """The program, installed once. RuntimeError with the installer's last words."""
    folder = CACHE / "tools" / GUIDELLM.replace("==", "-")
    program = folder / "bin" / "guidellm"
    if not program.exists():
        uv = str(ROOT / ".venv" / "bin" / "uv")
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], ROOT)
        _run([uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), GUIDELLM], ROOT)
    return program


def _run(line: list[str], folder: Path) -> None:
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_CACHE_ROOT": str(folder / "cache")}
    done = subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise RuntimeError(f"{Path(line[0]).name} ended with {done.returncode}: {' '.join(said)[-400:]}")
