"""Files of inputs on their way from a browser: in pieces, on this machine's disk, until they are a dataset.

A file lies in SLIPWAY_HOME below its team's number, by a key nobody can guess, with its name and size beside
it. Once a dataset holds its rows it is removed. Knows nothing of what is in it.
"""

import fcntl
import json
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from playground import datasets, disk, reading
from playground.datasets import DatasetRefused
from playground.models import Team

PIECE = 8 << 20
MOST = 20
KEPT_S = 24 * 3600
KEY = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)


@dataclass(frozen=True)
class Arriving:
    """One file. `received` bytes of `size` are here, at `path`."""

    key: str
    name: str
    size: int
    path: Path

    @property
    def received(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def is_whole(self) -> bool:
        return self.received == self.size


def begin(team: Team, name: str, size: int) -> Arriving:
    """Room for a file. DatasetRefused where it is too large, or the team's quota or the disk has no room."""
    name = "".join(one for one in Path(name.replace("\\", "/")).name if one.isprintable())[-200:] or "file"
    if size == 0:
        raise DatasetRefused(f"{name} is empty.", 1)
    if not 0 < size <= reading.MAX_SIZE:
        most = reading.MAX_SIZE // 1_000_000
        raise DatasetRefused(f"{name} has {size / 1e6:,.1f} MB; {most} MB are the most.", status=413)
    forget_old(team)
    waiting = _waiting(team)
    if len(waiting) >= MOST:
        why = f"{MOST} files of the team wait to be saved: save one, or wait a day until they are forgotten."
        raise DatasetRefused(why, status=507)
    datasets.check_room(team, size + sum(one.size for one in waiting))
    key = secrets.token_urlsafe(16)
    place = _folder(team) / key
    place.mkdir(parents=True, mode=0o700)
    (place / "about.json").write_text(json.dumps({"name": name, "size": size}))
    (place / "file").touch(mode=0o600)
    return Arriving(key, name, size, place / "file")


def find(team: Team, key: str) -> Arriving | None:
    """The file of that key, if it is the team's and still here."""
    if not KEY.fullmatch(key):
        return None
    place = _folder(team) / key
    try:
        about = json.loads((place / "about.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Arriving(key, about["name"], about["size"], place / "file")


def write(file: Arriving, offset: int, piece: bytes) -> int:
    """Add a piece where the file ends; the bytes received then. DatasetRefused where it does not fit."""
    if not piece or len(piece) > PIECE or offset + len(piece) > file.size:
        raise DatasetRefused("The piece is empty, too large, or goes past the file's end.")
    with file.path.open("r+b") as target:
        fcntl.flock(target, fcntl.LOCK_EX)
        received = target.seek(0, 2)
        if offset != received:
            raise DatasetRefused(f"The file goes on at {received}, not at {offset}.", status=409)
        try:
            disk.brake(file.path, len(piece))
        except disk.DiskFull as problem:
            raise DatasetRefused(str(problem), status=507) from problem
        target.write(piece)
        return received + len(piece)


def remove(file: Arriving) -> None:
    shutil.rmtree(file.path.parent, ignore_errors=True)


def forget_old(team: Team) -> None:
    """Remove what nobody touched for a day."""
    for place in _places(team):
        if time.time() - _touched(place) > KEPT_S:
            shutil.rmtree(place, ignore_errors=True)


def _touched(place: Path) -> float:
    """When its last bytes came; now where another process removes it at this moment."""
    try:
        return max(one.stat().st_mtime for one in (place, place / "file"))
    except FileNotFoundError:
        return time.time()


def _waiting(team: Team) -> list[Arriving]:
    found = (find(team, place.name) for place in _places(team))
    return [one for one in found if one]


def _places(team: Team) -> list[Path]:
    folder = _folder(team)
    return [place for place in folder.iterdir() if place.is_dir()] if folder.is_dir() else []


def _folder(team: Team) -> Path:
    return Path(settings.HOME) / "datasets" / str(team.pk)
