"""One replica from claim to end: takes its locks, starts the engine, watches it, stops it. Knows nothing about Django."""

from playground.reporter import Reporter, Superseded, Unreachable, Wish
from playground.spec import Spec

__all__ = ["Reporter", "Spec", "Superseded", "Unreachable", "Wish", "run"]


async def run(spec: Spec, reporter: Reporter) -> int:
    """The whole life of a replica; answers the exit code."""
    raise NotImplementedError
