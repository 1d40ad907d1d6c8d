"""What this machine has: cores, memory, GPUs. Knows nothing about Django.

NVML is read in a short process of its own: initialised in a process that forks later, it breaks CUDA in the
children.
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

logger = logging.getLogger(__name__)

# One run of it costs a process start, so callers ask seldom.
_NVML = """
import json, pynvml
pynvml.nvmlInit()
text = lambda value: value.decode() if isinstance(value, bytes) else value
driver, gpus = text(pynvml.nvmlSystemGetDriverVersion()), []
for index in range(pynvml.nvmlDeviceGetCount()):
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    gpus.append({"index": index, "uuid": text(pynvml.nvmlDeviceGetUUID(handle)),
        "name": text(pynvml.nvmlDeviceGetName(handle)), "driver": driver,
        "memory_bytes": memory.total, "used_bytes": memory.used,
        "busy_percent": pynvml.nvmlDeviceGetUtilizationRates(handle).gpu})
print(json.dumps(gpus))
"""
NVML_TIMEOUT_S = 20


def cores() -> int:
    """Cores this process may use: its affinity, cut by the control group's quota."""
    usable = len(os.sched_getaffinity(0))
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        usable = min(usable, max(1, int(quota[0]) // int(quota[1])))
    return usable


def memory() -> tuple[int, int]:
    """Bytes of memory: all, and free for new programs. The control group's limit counts where it is lower."""
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit.isdigit() and used.isdigit() and int(limit) < total:
        cache = dict(line.split() for line in _cgroup("memory.stat").splitlines()).get("inactive_file", "0")
        total = int(limit)
        available = min(available, max(0, total - int(used) + int(cache)))
    return total, available


def gpus() -> list[dict[str, Any]]:
    """Each GPU: index, uuid, name, driver, memory_bytes, used_bytes, busy_percent."""
    if not Path("/dev/nvidiactl").exists():
        return []
    try:
        done = subprocess.run(
            [sys.executable, "-c", _NVML], capture_output=True, text=True, timeout=NVML_TIMEOUT_S, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as problem:
        logger.warning(
            "NVML does not answer, no GPU is offered: %s", getattr(problem, "stderr", "") or problem
        )
        return []
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _cgroup(name: str) -> str:
    """A file of this process's control group (version 2); empty where there is none."""
    path = Path("/sys/fs/cgroup") / name
    return path.read_text().strip() if path.exists() else ""
