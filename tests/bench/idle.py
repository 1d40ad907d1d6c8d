"""Memory of everything `make up` runs, idle, by process: resident, and proportional (shared pages split).

    SLIPWAY_HOME=DIR .venv/bin/python tests/bench/idle.py      # with `make up` running in that home

A real engine, where one runs, is listed apart: it is what the machine is for.
"""

import os
import sys
from pathlib import Path

import psutil

MIB = 1024 * 1024


def ours(home: str) -> list[psutil.Process]:
    """Every live process of the home, PostgreSQL's children (which carry no environment of ours) included."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLIPWAY_HOME") == home and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
                found |= {child.pid: child for child in process.children(recursive=True)}
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    found.pop(os.getpid(), None)
    return list(found.values())


def main() -> None:
    home = str(Path(os.environ.get("SLIPWAY_HOME", str(Path.home() / ".slipway"))).resolve())
    rows, engines = [], []
    for process in ours(home):
        memory = process.memory_full_info()
        words = process.cmdline()
        name = " ".join(Path(word).name if "/" in word else word for word in words[:4])[:60]
        row = (memory.rss / MIB, memory.pss / MIB, process.pid, name)
        (engines if "SLIPWAY_REPLICA" in process.environ() else rows).append(row)
    if not rows:
        sys.exit(f"nothing runs in {home}")
    for title, part in (("Slipway", rows), ("engines", engines)):
        if not part:
            continue
        print(title)
        for rss, pss, pid, name in sorted(part, reverse=True):
            print(f"  {rss:8.1f} MiB resident {pss:8.1f} proportional  {pid:>7}  {name}")
        resident, proportional = sum(row[0] for row in part), sum(row[1] for row in part)
        print(f"  {resident:8.1f} MiB resident {proportional:8.1f} proportional, together")


if __name__ == "__main__":
    main()
