"""The disk brake: what would leave a disk with less than a tenth of it free is refused before it begins.

Knows nothing of what the bytes are.
"""

import shutil
from pathlib import Path

from django.conf import settings


class DiskFull(Exception):
    """It would fill the disk; the text says how much is missing."""


def brake(path: Path, wanted_bytes: int) -> None:
    """Raise DiskFull unless `wanted_bytes` more below `path` leave a tenth of its disk free.

    `path` need not exist yet: the nearest folder above it that does is asked.
    """
    usage = shutil.disk_usage(_existing(path))
    kept = int(usage.total * settings.DISK_FREE)
    lacking = wanted_bytes + kept - usage.free
    if lacking > 0:
        raise DiskFull(
            f"The disk is too full: this needs {_amount(wanted_bytes)}, {_amount(usage.free)} are free, and "
            f"{_amount(kept)} of {_amount(usage.total)} stay free. Make {_amount(lacking)} of room first."
        )


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def _amount(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
