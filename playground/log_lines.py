"""A line of the log: an exception is told by its type and place, its text only where it cannot quote anybody.

What a person wrote, a prompt, a file, a form, turns up in the text of exceptions: a database quotes the value
that it refuses, a parser what it could not read. The log is read by more people than a conversation is.
"""

import logging
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from django.db import OperationalError

# Their text is the system's own: what could not be reached, opened or imported.
TELLING = (OSError, ImportError, OperationalError)


class Careful(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """As ever, but for what Celery puts into its line of a task that failed."""
        # Another handler may have written the exception into the record, in its own words.
        anew: dict[str, Any] = {"exc_text": None}
        if isinstance(record.args, Mapping) and "exc" in record.args:
            error = record.exc_info[1] if record.exc_info else None
            told = {"exc": _said(error) if error else "an exception", "traceback": ""}
            anew["args"] = {**record.args, **told}
        return super().format(logging.makeLogRecord(record.__dict__ | anew))

    def formatException(self, ei: Any) -> str:
        lines: list[str] = []
        for error in _all(ei[1], set()):
            lines += [*traceback.format_tb(error.__traceback__), f"{_said(error)}\n"]
        return "".join(lines).rstrip()


def _all(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    """The exception after what led to it, and each of a group."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield from _all(error.__cause__ or (None if error.__suppress_context__ else error.__context__), seen)
    for one in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _all(one, seen)
    yield error


def _said(error: BaseException) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return f"{name}: {error}" if isinstance(error, TELLING) else name
