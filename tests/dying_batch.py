"""A node's process for batches that is killed at chosen moments, again and again, and at last is not.

    python -m tests.dying_batch

Loaded once; each life is a fork of it, which dies by SIGKILL when its moment comes for the third time.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import django

# Before a statement, after it and before its commit, after its commit.
# Giving back comes first: what an engine died over is asked last from then on.
MOMENTS = [
    ("batch_claims.give_back", "before"),
    ("batch_claims.give_back", "after"),
    ("batch_claims.renew", "before"),
    ("batch_claims.renew", "after"),
    ("batch_claims.claim", "before"),
    ("batch_claims.claim", "after"),
    ("slices.record", "before"),
    ("batch_claims.keep", "after"),
    ("slices.record", "after"),
]
TIMES = {"batch_claims.give_back": 1, "batch_claims.renew": 1}
THIRD = 3


def die_at(name: str, when: str) -> None:
    """Have this process killed there."""
    from playground import batch_claims, slices

    module = {"batch_claims": batch_claims, "slices": slices}[name.partition(".")[0]]
    verb: Callable[..., Any] = getattr(module, name.partition(".")[2])
    left = [TIMES.get(name, THIRD)]

    @wraps(verb)
    def dying(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] <= 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = verb(*args, **kwargs)
        if left[0] <= 0 and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(module, dying.__name__, dying)


def live(moment: tuple[str, str] | None) -> int:
    """One life; its exit code, negative when it was killed."""
    if (pid := os.fork()) == 0:
        from playground import batch_process

        if moment:
            die_at(*moment)
        os._exit(batch_process.run())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "playground.settings")
    django.setup()
    import playground.batch_process  # noqa: F401

    for moment in MOMENTS:
        code = live(moment)
        print(*moment, code, flush=True)
        if code != -signal.SIGKILL:
            sys.exit(1)
    live(None)


if __name__ == "__main__":
    main()
