"""What holds back a batch's rows beside its engines: limits of whoever sent it, kept elsewhere."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from playground.batch_claims import Result, Row


class Waits(Exception):
    """Nothing more may be asked for so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds} s")
        self.seconds = seconds


class Refused(Exception):
    """The row may not be asked; `text` is told as its error."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Pass(Protocol):
    """One row that may be asked, however often. Ends once."""

    def close(self, result: Result) -> None:
        """It has a result: what it truly took is counted."""

    def give_back(self) -> None:
        """It has none, and is asked again another time: it took nothing."""


class Gate(Protocol):
    """Of one column."""

    async def admit(self, row: Row, defaults: Mapping[str, Any]) -> Pass:
        """Raises Waits or Refused."""


Opens = Callable[[int], Awaitable[Gate | None]]
# Each gives the gate of a column, by its key, or None; and what is closed with the process.
OPENS: list[Opens] = []
CLOSES: list[Callable[[], Awaitable[None]]] = []


async def of(column: int) -> Gate | None:
    """The column's gate; None where nothing holds it back."""
    for opens in OPENS:
        if gate := await opens(column):
            return gate
    return None


async def close() -> None:
    """The process ends, and with it its loop."""
    for closes in CLOSES:
        await closes()
