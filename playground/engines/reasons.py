"""Sorts an engine's failure into a reason a person can act on: the adapter's rules first, then ours."""

import re
from pathlib import Path

from .base import Engine, Reason, ReasonCode

# (code, what the log says, what to do). The first match wins, so the specific stand before the general.
RULES: list[tuple[ReasonCode, str, str]] = [
    (
        ReasonCode.DRIVER_MISSING,
        r"Found no NVIDIA driver|CUDA driver version is insufficient|no CUDA-capable device"
        r"|libcuda\.so\.1: cannot open|NVML Shared Library Not Found|No CUDA GPUs are available"
        r"|Failed to infer device type|forward compatibility was attempted on non supported HW",
        "No usable NVIDIA driver on this node. Install the driver, or choose the CPU build of this engine.",
    ),
    (
        ReasonCode.CONTEXT_TOO_LONG,
        r"max seq len .* KV cache|larger than the maximum number of tokens that can be stored in KV cache"
        r"|KV cache is needed, which is larger|max_model_len .* is greater than"
        r"|No available memory for the cache blocks",
        "The context does not fit into the memory left for the KV cache. Choose a shorter context length.",
    ),
    (
        ReasonCode.OUT_OF_MEMORY,
        r"out of memory|OutOfMemory|Cannot allocate memory|MemoryError|std::bad_alloc|failed to allocate"
        r"|unable to allocate|Free memory on device .* is less than desired|CUBLAS_STATUS_ALLOC_FAILED"
        r"|failed to fit params",
        "Not enough memory. Shorten the context, allow fewer parallel requests, or take a smaller model.",
    ),
    (
        ReasonCode.GATED,
        r"GatedRepoError|gated repo|Access to model .* is restricted|Cannot access gated",
        "The model is gated: accept its licence on the Hub and give Slipway a token that may read it.",
    ),
    (
        ReasonCode.PORT_TAKEN,
        r"[Aa]ddress already in use|EADDRINUSE|couldn't bind to server socket|Errno 98",
        "Its port was taken by another program.",
    ),
    (
        ReasonCode.UNKNOWN_OPTION,
        r"unrecognized arguments?|unknown (argument|option)|invalid choice|No such option|invalid argument:"
        r"|error: argument |ambiguous option",
        "The engine refuses an option. Remove it, or choose a version of the engine that knows it.",
    ),
    (
        ReasonCode.BAD_WEIGHTS,
        r"SafetensorError|HeaderTooLarge|invalid magic|failed to load model|not within the file bounds"
        r"|unknown model architecture|not a valid GGUF|does not recognize this architecture"
        r"|is not supported for now|Unsupported architecture|shape mismatch|size mismatch for",
        "The weights cannot be loaded by this engine: damaged, or of an architecture it does not know.",
    ),
    (
        ReasonCode.UNKNOWN_OPTION,
        r"(Error|python[\d.]*): No module named|command not found|No such file or directory: .*bin/python",
        "The engine's environment is incomplete. Remove it and install it again.",
    ),
]
COMPILED = [(code, re.compile(pattern), advice) for code, pattern, advice in RULES]
SAID_CHARS = 300
KILLED = (-9, 137)


def explain(adapter: Engine, log: list[str], exit_code: int | None, memory_ran_out: bool | None) -> Reason:
    """Why an engine ended by itself.

    `log`: its last lines. `exit_code`: negative for a signal, None while it runs. `memory_ran_out`: whether
    the kernel killed processes for memory meanwhile (None: it cannot be known here).
    """
    return (
        adapter.explain(log, exit_code)
        or _killed(exit_code, memory_ran_out)
        or _common(log)
        or _crash(log, exit_code)
    )


def _killed(exit_code: int | None, memory_ran_out: bool | None) -> Reason | None:
    """SIGKILL has no last words: the kernel's own count of such kills tells memory from a person."""
    if exit_code not in KILLED:
        return None
    if memory_ran_out is False:
        return _crash([], exit_code)
    text = (
        "The kernel killed it: the node ran out of memory. Take a smaller model or context, or more memory."
    )
    return Reason(ReasonCode.OUT_OF_MEMORY, text)


def _common(log: list[str]) -> Reason | None:
    """The first rule, of those above, whose words the log holds; quoted is the last line that does."""
    for code, pattern, advice in COMPILED:
        for line in reversed(log):
            if pattern.search(line):
                return Reason(code, f"{advice} It said: {_said(line)}")
    return None


def _crash(log: list[str], exit_code: int | None) -> Reason:
    how = _how(exit_code)
    said = next(
        (line for line in reversed(log) if re.search(r"error|exception|fatal|abort", line, re.IGNORECASE)), ""
    )
    return Reason(ReasonCode.CRASHED, f"The engine {how}." + (f" It said: {_said(said)}" if said else ""))


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return "stopped working"
    if exit_code in KILLED:
        return "was killed from outside (SIGKILL)"
    return (
        f"was ended by signal {-exit_code}"
        if exit_code < 0
        else f"ended by itself with exit code {exit_code}"
    )


def _said(line: str) -> str:
    """A log line, short, without a logger's prefix of times and levels."""
    plain = re.sub(r"^(\(.*?\)|\[.*?\]|(INFO|WARNING|ERROR|CRITICAL)\b|\d[\d:.,TZ-]*|\s)+", "", line)
    return plain[:SAID_CHARS] or line[:SAID_CHARS]


def memory_kills() -> int | None:
    """Processes the kernel has killed for memory, in this control group or on this machine; None: unknown."""
    for path, name in (
        (Path("/sys/fs/cgroup/memory.events"), "oom_kill"),
        (Path("/proc/vmstat"), "oom_kill"),
    ):
        if not path.exists():
            continue
        found = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
        if name in found:
            return int(found[name])
    return None
