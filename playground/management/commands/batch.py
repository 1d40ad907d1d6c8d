"""`manage.py batch FILE --deployment D --output OUT`: ask every row of a file, and write down the answers.

Ctrl-C ends this verb, not the batch: it says how to follow or cancel that. Exit codes as in `shell`; 1
also where rows failed, whose errors stand in the output too.
"""

import asyncio
import os
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playground import batch_files, batch_report, batches, datasets, disk, shell
from playground.models import Batch, BatchColumn, Dataset, DatasetVersion, Deployment

LOOK_EVERY_S = 0.3
# Where nobody looks at a screen, progress is told so often.
TELL_EVERY_S = 10.0
WIDTH = 30
SHOWN = 10


class Command(shell.Verb):
    help = "Ask a deployment every row of a file (JSONL, CSV, Parquet) and write the answers to another."
    rows_failed = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", nargs="?", help="OpenAI batch lines, prompts, or a table.")
        parser.add_argument("--deployment", help="Id or name. A stopped one is started, and stopped again.")
        parser.add_argument("--output", help=f"Where the answers go: .{', .'.join(batch_files.FORMATS)}.")
        parser.add_argument("--prompt", default="", help="For tables: a text with {{column}} in it.")
        parser.add_argument("--name", default="", help="Default: the file's.")
        parser.add_argument("--skip-bad", action="store_true", help="Leave out lines that cannot be read.")
        parser.add_argument("--detach", action="store_true", help="Return once it has begun.")
        parser.add_argument("--follow", type=int, metavar="BATCH", help="Go on with one that was begun.")
        parser.add_argument("--cancel", type=int, metavar="BATCH", help="Cancel one that was begun.")
        parser.add_argument("--timeout", type=float, default=0.0, help="Seconds to wait at most; 0: no end.")

    def act(self, *, quiet: bool, **options: Any) -> dict[str, Any]:
        say = self.say(quiet)
        if options["cancel"] is not None:
            batch = _find(options["cancel"])
            _verb(lambda: batches.cancel(batch, shell.actor()))
            return facts(batch)
        output = _output(options)
        batch = _find(options["follow"]) if options["follow"] is not None else _begin(options, say)
        if options["detach"]:
            return facts(batch)
        try:
            _follow(batch, options["timeout"], Bar(quiet))
        except KeyboardInterrupt:
            say(f"\nBatch {batch.pk} goes on. {_ways(batch, options['output'])}")
            raise
        value = _finish(batch, output)
        self.rows_failed = value["failed"] > 0
        return value

    def handle(self, *args: Any, **options: Any) -> None:
        super().handle(*args, **options)
        if self.rows_failed:
            sys.exit(shell.FAILED)

    def show(self, value: dict[str, Any]) -> None:
        told = f"batch {value['id']}  {value['state']}  {value['done']} of {value['rows']} answered"
        failed = f"  {value['failed']} failed" if value["failed"] else ""
        output = f"  {value['output']}" if value.get("output") else ""
        self.stdout.write(told + failed + output)


def facts(batch: Batch) -> dict[str, Any]:
    """A batch as the shell shows it."""
    found = next(iter(batches.counts(batch).values()))
    return {
        "id": batch.pk,
        "name": batch.name,
        "state": batch.state,
        "problem": batch.problem,
        "rows": batch.version.row_count,
        "done": found["done"],
        "failed": found["failed"],
        "cancelled": found["cancelled"],
    }


def _ways(batch: Batch, output: str | None) -> str:
    return (
        f"Follow it: manage.py batch --follow {batch.pk} --output {output or 'OUT'}\n"
        f"Cancel it: manage.py batch --cancel {batch.pk}"
    )


def _find(pk: int) -> Batch:
    batch = Batch.objects.filter(pk=pk, team=shell.team()).select_related("version", "team").first()
    if batch is None:
        raise shell.Failed(f"There is no batch {pk}.", shell.MISSING)
    return batch


def _verb[Result](call: Callable[[], Result]) -> Result:
    try:
        return call()
    except (batches.BatchRefused, disk.DiskFull) as refusal:
        raise shell.Failed(str(refusal), shell.REFUSED) from refusal


def _output(options: dict[str, Any]) -> Path | None:
    """Where to write; judged before anything is asked."""
    if not options["output"]:
        if options["detach"]:
            return None
        raise shell.Failed("Say where the answers go: --output answers.jsonl", shell.USAGE)
    path = Path(options["output"])
    if path.suffix.lstrip(".") not in batch_files.FORMATS:
        kinds = ", ".join(batch_files.FORMATS)
        raise shell.Failed(f"The output's name ends with one of: {kinds}.", shell.USAGE, {"output": kinds})
    if not path.absolute().parent.is_dir():
        raise shell.Failed(f"There is no folder {path.absolute().parent}.", shell.MISSING)
    return path


# Beginning


def _begin(options: dict[str, Any], say: Callable[[str], None]) -> Batch:
    if not options["file"] or not options["deployment"]:
        raise shell.Failed("Name a file and a deployment: batch FILE --deployment D", shell.USAGE)
    deployment, path = shell.deployment(options["deployment"]), Path(options["file"])
    if not path.is_file():
        raise shell.Failed(f"There is no file {path}.", shell.MISSING)
    try:
        version = _version(path, options, say)
    except datasets.DatasetRefused as problem:
        at = f" (line {problem.line})" if problem.line else ""
        raise shell.Failed(f"{problem}{at}", shell.REFUSED, {"file": str(problem)}) from problem
    batch = _verb(lambda: _asked(version, deployment, options["name"]))
    say(f"Batch {batch.pk}: {version.row_count:,} rows to {deployment.name}.")
    return batch


def _asked(version: DatasetVersion, deployment: Deployment, name: str) -> Batch:
    return batches.begin(shell.team(), shell.actor(), name, version, [{"deployment": deployment}], {})


def _version(path: Path, options: dict[str, Any], say: Callable[[str], None]) -> DatasetVersion:
    """The file's rows, kept as the next version of the dataset of its name."""
    template = [{"role": "user", "content": options["prompt"]}] if options["prompt"] else None
    if not options["skip_bad"]:
        _refuse_bad(path)
    team, user = shell.team(), shell.actor()
    dataset = Dataset.objects.filter(team=team, name=path.name).first()
    dataset = dataset or datasets.create(team, user, path.name)
    version = datasets.add_version(dataset, user, path, path.name, None, template)
    for problem in version.problems[:SHOWN]:
        say(f"Line {problem['line']} is left out: {problem['why']}")
    if version.bad_rows > SHOWN:
        say(f"… and {version.bad_rows - SHOWN:,} lines more.")
    return version


def _refuse_bad(path: Path) -> None:
    """Failed where a line cannot be used, naming the first of them."""
    found = datasets.preview(path, path.name)
    if not found.bad_rows:
        return
    lines = [f"Line {one.line}: {one.why}" for one in found.problems[:SHOWN]]
    rest = [f"… and {found.bad_rows - SHOWN:,} lines more."] if found.bad_rows > SHOWN else []
    head = f"{found.bad_rows:,} lines cannot be used; --skip-bad leaves them out."
    fields = {f"line {one.line}": one.why for one in found.problems}
    raise shell.Failed("\n".join([head, *lines, *rest]), shell.REFUSED, fields)


# Following


def _follow(batch: Batch, timeout: float, bar: "Bar") -> None:
    """Until it has ended."""
    deadline = time.monotonic() + timeout if timeout else float("inf")
    columns = list(batch.columns.all())
    while True:
        batch.refresh_from_db(fields=["state", "problem"])
        found = batch_report.whole(list(batch_report.progress(batch, columns).values()))
        waits = BatchColumn.objects.filter(batch=batch).values_list("problem", flat=True)[0]
        ended = batch.state not in Batch.OPEN
        bar.show(found, _standing(batch, waits), last=ended)
        if ended:
            return
        if time.monotonic() > deadline:
            raise shell.Failed(f"Not done after {timeout:g} s; it goes on. {_ways(batch, None)}", shell.LATE)
        time.sleep(LOOK_EVERY_S)


def _standing(batch: Batch, waits: str) -> str:
    if batch.state == Batch.State.RUNNING:
        return waits
    return batch.get_state_display()


class Bar:
    """Progress on standard error: one line that changes on a screen, now and then a line elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.screen = quiet, sys.stderr.isatty()
        self.told = float("-inf")

    def show(self, found: batch_report.Progress, standing: str, *, last: bool) -> None:
        due = self.screen or last or time.monotonic() - self.told > TELL_EVERY_S
        if self.quiet or not due:
            return
        self.told = time.monotonic()
        text = line(found, standing)
        if self.screen:
            # A terminal that does not know its width says 0.
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            text = "\r" + text[: max(20, width - 1)] + "\033[K"
        sys.stderr.write(text + ("\n" if last or not self.screen else ""))
        sys.stderr.flush()


def line(found: batch_report.Progress, standing: str = "") -> str:
    """`[######----] 600 of 1,000 · 60 % · 12.3 rows/s · 33 s left · 2 failed`."""
    share = found.ended / found.total if found.total else 1.0
    full = int(WIDTH * share)
    parts = [
        f"[{'#' * full}{'-' * (WIDTH - full)}] {found.ended:,} of {found.total:,}",
        f"{int(100 * share)} %",
    ]
    parts += [f"{found.rate:,.1f} rows/s"] if found.rate else []
    parts += [f"{_time(found.left_s)} left"] if found.left_s else []
    parts += [f"{found.failed:,} failed"] if found.failed else []
    return " · ".join([*parts, *([standing] if standing else [])])


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# Writing


def _finish(batch: Batch, output: Path | None) -> dict[str, Any]:
    """The answers in their file, also of a batch that was cancelled or whose window was over."""
    value = facts(batch)
    if output is not None:
        columns = list(batch.columns.select_related("deployment"))
        _verb(lambda: asyncio.run(_write(batch, columns, output)))
        value["output"] = str(output)
    if batch.state != Batch.State.COMPLETED:
        told = f"Batch {batch.pk} was {batch.get_state_display()}: {value['done']} rows were answered."
        raise shell.Failed(f"{told} {batch.problem}".rstrip())
    return value


async def _write(batch: Batch, columns: list[BatchColumn], output: Path) -> None:
    """Whole or not at all: written beside it, then renamed."""
    kind = output.suffix.lstrip(".")
    handle, name = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.absolute().parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            async for piece in batch_files.stream(batch, columns, kind):
                disk.brake(part, len(piece))
                file.write(piece)
        part.chmod(0o644)
        part.rename(output)
    finally:
        part.unlink(missing_ok=True)
