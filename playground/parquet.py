"""Reads a Parquet file in a process of its own: a hostile file costs that process, not the one that asked.

    python -m playground.parquet FILE

writes a first line with the columns' names, then one JSON object a row, null for one that is too long. It
bounds its own memory and time. Knows nothing of Django.
"""

import base64
import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

MAGIC = b"PAR1"
MOST = 8 << 20
MEMORY = 2 << 30
SECONDS = 120
BATCH = 256


class Unreadable(Exception):
    """The file cannot be read; the text says why."""


def rows(path: Path) -> Generator[str]:
    """JSON lines: the columns' names as a list, then each row. Unreadable where it ends early."""
    command = [sys.executable, "-m", "playground.parquet", str(path)]
    root = Path(__file__).resolve().parent.parent
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=root
    )
    assert process.stdout and process.stderr
    finished = False
    try:
        for line in process.stdout:
            yield line.decode()
        finished = True
    finally:
        if not finished:
            process.kill()
        why = process.stderr.read().decode(errors="replace").strip().splitlines()
        process.stdout.close()
        process.stderr.close()
        code = process.wait()
    if code:
        raise Unreadable(why[-1][:300] if code == 1 and why else f"its reader ended with {code}.")


def main(path: str) -> int:
    """Write the rows of `path` to standard output; 1 with one line on standard error where it cannot."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    arrow.set_cpu_count(1)
    arrow.set_io_thread_count(1)
    try:
        with contextlib.closing(parquet.ParquetFile(path)) as file:
            _write(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=BATCH, use_threads=False):
                for row in batch.to_pylist():
                    _write(row)
    except BrokenPipeError:
        return 0  # Whoever asked has read enough.
    except (arrow.ArrowException, OSError, ValueError, MemoryError, RecursionError) as problem:
        told = " ".join(str(problem).split())
        if isinstance(problem, MemoryError):
            told = f"it takes more than {MEMORY >> 30} GB of memory to read."
        sys.stderr.write(f"{told or type(problem).__name__}\n")
        return 1
    return 0


def _write(value: Any) -> None:
    line = json.dumps(value, default=_plain)
    sys.stdout.write(f"{line if len(line) <= MOST else 'null'}\n")


def _plain(value: Any) -> str:
    """What JSON has no name for: bytes as text or base64, dates and decimals as they are written."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
