"""What the parser scripts share: command lines in, what each parser made of them out. Needs no package.

`python parse_NAME.py RESULT` reads a JSON list of command lines from its standard input, and writes to RESULT
a list of {"error": null or words, "values": {name: text}}: engines print to their output what they like. With
`python parse_NAME.py RESULT FLAGS` it writes to FLAGS every flag of the engine's parser, as a JSON list.
"""

import contextlib
import importlib.util
import io
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def answer(parse: Callable[[list[str]], dict[str, Any]], flags: Iterable[str] = ()) -> None:
    """Give each command line to `parse`, which raises or exits where the engine refuses it."""
    commands = json.load(sys.stdin)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(sorted(flags)))
    Path(sys.argv[1]).write_text(json.dumps([outcome(parse, command) for command in commands]))


def outcome(parse: Callable[[list[str]], dict[str, Any]], command: list[str]) -> dict[str, Any]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            values = parse(command)
    except (Exception, SystemExit) as problem:
        words = said.getvalue().strip().splitlines()[-3:]
        return {"error": " ".join([f"{type(problem).__name__}: {problem}", *words]), "values": {}}
    return {"error": None, "values": {name: repr(value) for name, value in values.items()}}


def after(command: list[str], program: str) -> list[str]:
    """The arguments behind `program` in a command line of this very interpreter."""
    if Path(command[0]).parent != Path(sys.executable).parent:
        raise ValueError(f"{command[0]} is no program of this environment")
    return command[command.index(program) + 1 :]


def launcher(command: list[str]) -> tuple[Any, list[str]]:
    """The launcher a command line runs, as a module that did nothing yet, and the arguments behind it."""
    file = next(part for part in command if part.endswith(".py"))
    sys.path.insert(0, str(Path(file).parent))
    spec = importlib.util.spec_from_file_location("launcher", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, after(command, file)
