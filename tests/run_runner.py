"""A runner in a process of its own, for tests that kill it: `python -m tests.run_runner SPEC`.

Its reports go, one JSON line each, to `reports` beside the spec.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from playground.engines.base import Reason
from playground.runner import Spec, Wish, run


class Filed:
    """Reports in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getattr__(self, verb: str) -> Any:
        async def report(*arguments: Any) -> None:
            plain = [argument.code if isinstance(argument, Reason) else argument for argument in arguments]
            with self.path.open("a") as file:
                file.write(json.dumps([verb, plain], default=str) + "\n")

        return report

    async def claim(self, runner_pid: int) -> bool:
        return True

    async def beat(self, health: dict[str, Any]) -> Wish:
        return Wish.RUN


if __name__ == "__main__":
    path = Path(sys.argv[1])
    sys.exit(asyncio.run(run(Spec.from_json(path.read_text()), Filed(path.with_name("reports")))))
