"""Every option of every adapter, fed to the engine's own argument parser in the engine's own environment."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from playground import engines, environments
from playground.engines.base import Engine, Gpu, Hardware, LocalAdapter, LocalModel, Taken
from tests import real_engines
from tests.home import HOME
from tests.parsers.left_out import LEFT_OUT
from tests.real_engines import ROWS

PARSERS = Path(__file__).parent / "parsers"
HARDWARE = {
    "cpu": Hardware(cores=2, memory_bytes=8 << 30),
    "cuda": Hardware(cores=16, memory_bytes=128 << 30, gpus=(Gpu(0, "H100", 80 << 30),)),
}
# An engine's parser is reached by a script of its own, where it has one.
SCRIPTS = {name: PARSERS / f"parse_{name.replace('.', '')}.py" for name in ROWS}
every = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=row.marks()) for name, row in ROWS.items() if SCRIPTS[name].exists()],
)

# Options that no parser on a machine without a GPU knows: the README names them. They must be refused here,
# or they belong among the checked ones.
UNCHECKED: dict[str, dict[str, str]] = {
    "llama.cpp": {"program": "a llama-server of the node's own is not part of any environment"},
    "triton": {"program": "NVIDIA's OpenAI front end is part of its container only"},
}
# What else must be set for an option to mean something.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("vllm", "structured_compact"): {"structured_backend": "guidance"},
    ("vllm", "structured_closed"): {"structured_backend": "guidance"},
}
# Values of options whose type names none.
EXAMPLES: dict[tuple[str, str], list[Any]] = {}


@dataclass(frozen=True)
class Line:
    """One command line, and the option it is about; none for what the adapter says unasked."""

    option: str
    value: Any
    build: str
    command: list[str]

    def __str__(self) -> str:
        return f"{self.option}={self.value!r} on {self.build}"


def lines(adapter: Engine, folder: Path) -> list[Line]:
    """The plain command, one with LoRA weights, and every option with each value that can be wrong."""
    found = []
    for build in HARDWARE:
        found.append(Line("", None, build, command(adapter, folder, build, {})))
        lora = (LocalAdapter("tuned", Path("/models/tuned"), 8),)
        found.append(Line("", "LoRA", build, command(adapter, folder, build, {}, adapters=lora)))
        for option, shape in adapter.Options.model_json_schema()["properties"].items():
            for value in EXAMPLES.get((adapter.name, option)) or values(shape):
                given = {option: value} | BESIDE.get((adapter.name, option), {})
                found.append(Line(option, value, build, command(adapter, folder, build, given)))
        for flag, taken in adapter.extra_flags.items():
            for value in words(taken):
                added = [flag, *([] if value is None else [value])]
                found.append(Line(flag, value or "on", build, [*found_plain(found, build), *added]))
    return found


def found_plain(found: list[Line], build: str) -> list[str]:
    """The plain command of a build."""
    return next(line.command for line in found if line.build == build and line.value is None)


def words(taken: Taken) -> list[str | None]:
    """Values of an extra argument, none of them a usual default; None for a switch."""
    if isinstance(taken, tuple):
        return list(taken)
    return [None] if taken is None else ["5"] if taken is int else ["0.25"]


def command(adapter: Engine, folder: Path, build: str, options: dict[str, Any], **more: Any) -> list[str]:
    """What would run, with the program of an environment in `folder`."""
    path = HOME / "nothing"  # vLLM's parser looks whether it is there.
    path.mkdir(exist_ok=True)
    draft = LocalModel(name="tinier", path=path, kind=adapter.kinds[0])
    model = LocalModel(
        name="tiny", path=path, kind=adapter.kinds[0], context_length=8192, draft=draft, **more
    )
    typed = adapter.Options.model_validate(options)
    return adapter.command(folder, model, typed, 4711, "tiny", HARDWARE[build])


def values(shape: dict[str, Any]) -> Iterator[Any]:
    """Every choice, both ends of a range, on and off."""
    for variant in shape.get("anyOf", [shape]):
        if "enum" in variant or "const" in variant:
            yield from variant.get("enum", [variant.get("const")])
        elif variant["type"] == "boolean":
            yield from (True, False)
        elif variant["type"] == "array":
            yield from ([value] for value in values(variant["items"]))
        elif variant["type"] in ("integer", "number"):
            step = 1 if variant["type"] == "integer" else 0.001
            yield variant.get("minimum", variant.get("exclusiveMinimum", 0) + step)
            yield variant.get("maximum", variant.get("exclusiveMaximum", 0) - step)


def parsed(adapter: Engine, folder: Path, asked: list[Line], **variables: str) -> list[dict[str, Any]]:
    """What the engine's parser says of each line; the flags it has go to `flags_of`."""
    result = HOME / f"parsed-{adapter.name}.json"
    run = subprocess.run(
        [str(folder / "bin" / "python"), str(SCRIPTS[adapter.name]), str(result), str(flags_of(adapter))],
        input=json.dumps([line.command for line in asked]),
        env=os.environ | adapter.environment(adapter.Options(), "", HOME) | variables,
        cwd=HOME,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(result.read_text())
    return found


def flags_of(adapter: Engine) -> Path:
    """Where the flags that its parser has are written; none where the parser is a launcher of Slipway's."""
    return HOME / f"flags-{adapter.name}.json"


@every
@pytest.mark.django_db(transaction=True)
def test_the_engine_s_own_parser_takes_every_option(name: str) -> None:
    adapter = engines.get(name)
    folder = environments.path(real_engines.environment(name))
    asked = lines(adapter, folder)
    wrong = Line("", "refused", "cpu", [*asked[0].command, "--no-such-flag", "1"])
    found = parsed(adapter, folder, [*asked, wrong])
    assert found.pop()["error"], "a flag that no engine knows is taken"
    judge(adapter, asked, found)
    nothing_is_forgotten(adapter, json.loads(flags_of(adapter).read_text()), asked)


OTHERS = [(adapter.name, one) for adapter in engines.all() for one in adapter.also.get("cpu", ())]


@pytest.mark.engines
@pytest.mark.slow
@pytest.mark.parametrize(("name", "version"), [other for other in OTHERS if other[0] != "fake"])
@pytest.mark.django_db(transaction=True)
def test_an_older_version_takes_what_the_form_offers_for_it(name: str, version: str) -> None:
    adapter = engines.get(name)
    folder = environments.path(real_engines.environment(name, version))
    asked = lines(adapter, folder)
    judge(adapter, asked, parsed(adapter, folder, asked))


def nothing_is_forgotten(adapter: Engine, flags: list[str], asked: list[Line]) -> None:
    """Each flag is an option, an extra argument, said by Slipway, or left out for a reason."""
    said = {part.partition("=")[0] for line in asked for part in line.command if part.startswith("--")}
    # vLLM spells the parts of a structure as "--structure.part", and switches off as "--no-…".
    said |= {part.partition(".")[0] for part in said}
    said |= {f"--no-{flag[2:]}" for flag in said} | {f"--{flag[5:]}" for flag in said if flag[:5] == "--no-"}
    left = LEFT_OUT.get(adapter.name, {})
    known = {flag for flags in left.values() for flag in flags}
    known |= {f"--no-{flag[2:]}" for flag in known}
    long = [flag for flag in flags if flag.startswith("--") and flag != "--help"]
    forgotten = [flag for flag in long if flag not in said | known]
    assert not forgotten, f"neither an option nor left out for a reason: {forgotten}"
    gone = sorted(flag for flags in left.values() for flag in flags if flag not in long) if long else []
    assert not gone, f"left out, though the engine has no such flag: {gone}"


def judge(adapter: Engine, asked: list[Line], found: list[dict[str, Any]]) -> None:
    """Nothing is refused but what is listed as such, and every option that changes the command is heard."""
    unchecked = set(UNCHECKED.get(adapter.name, {}))
    pairs = list(zip(asked, found, strict=True))
    plain = {line.build: (line.command, said["values"]) for line, said in pairs if line.value is None}
    refused = {line.option: f"{line}: {said['error']}" for line, said in pairs if said["error"]}
    assert set(refused) <= unchecked, [words for option, words in refused.items() if option not in unchecked]
    told = {line.option for line, _ in pairs if line.option and line.command != plain[line.build][0]}
    heard = {
        line.option
        for line, said in pairs
        if line.option and not said["error"] and said["values"] != plain[line.build][1]
    }
    assert not heard & unchecked, "taken after all: check them"
    assert told - heard <= unchecked, "told the engine, and nothing came of it"
