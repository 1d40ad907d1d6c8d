"""Which Python an engine's environment is made with: any that is installed or fetched, or the system's own.

Some engines load libpython themselves, and find only a shared one in a place where the system looks.
"""

from pathlib import Path

from playground import packages
from playground.jobs import JobFailed, Work

SYSTEM = (Path("/usr/bin"), Path("/usr/local/bin"))
# Loads it as another program would, by the system's loader, and says nothing where it is there.
LOADS_ITS_LIBRARY = "import ctypes, sys; ctypes.CDLL('libpython%d.%d.so.1.0' % sys.version_info[:2])"


def find(work: Work, versions: tuple[str, ...], *, system: bool) -> tuple[str, str]:
    """The first of `versions` there is an interpreter for, and its path.

    `system`: only a distribution's, with a shared libpython. Else uv may fetch one where none is installed.
    """
    return _of_the_system(work, versions) if system else _any(work, versions)


def _of_the_system(work: Work, versions: tuple[str, ...]) -> tuple[str, str]:
    bare = []
    for version in versions:
        for interpreter in (folder / f"python{version}" for folder in SYSTEM):
            if not interpreter.exists():
                continue
            try:
                work.call([str(interpreter), "-I", "-c", LOADS_ITS_LIBRARY])
            except JobFailed:
                bare.append(version)
            else:
                return version, str(interpreter)
    if bare:
        raise JobFailed(
            f"It needs the shared library of the system's Python {bare[0]}, which is not installed: install "
            f"the system's package libpython{bare[0]}, then try again."
        )
    raise JobFailed(
        f"It needs the system's own Python {' or '.join(versions)} with its shared library, and this node "
        f"has none of them: install the system's packages python{versions[0]} and libpython{versions[0]}, "
        "then try again."
    )


def _any(work: Work, versions: tuple[str, ...]) -> tuple[str, str]:
    for version in versions:
        try:
            found = work.call(packages.uv("python", "find", "--system", "--no-python-downloads", version))
        except JobFailed:
            continue
        return version, found[-1]
    try:
        work.call(packages.uv("python", "install", versions[0]))
        return versions[0], work.call(packages.uv("python", "find", "--system", versions[0]))[-1]
    except JobFailed as problem:
        raise JobFailed(
            f"It needs Python {' or '.join(versions)}, and this node has none of them: install the system's "
            f"package python{versions[0]}, then try again."
        ) from problem
