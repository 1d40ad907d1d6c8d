"""Stands in for an engine for a moment: ties its life to the runner's, then becomes the engine. A script.

    python -I -S spawn.py RUNNER_PID COMMAND…

The tie (PR_SET_PDEATHSIG) must be made in the child, after the fork, where Python code of a process with
threads may not run; hence a program instead of a `preexec_fn`. It survives the exec; the engine's own
children do not inherit it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    runner, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != runner:
        sys.exit("the runner died first")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
