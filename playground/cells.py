"""Cells of CSV files that no spreadsheet takes for a formula, and back again. Pure."""

from typing import Any

UNSAFE = ("=", "+", "-", "@", "\t", "\r")


def safe(cell: Any) -> Any:
    """Text that a spreadsheet could run, or that begins as `safe` leaves it, behind an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith((*UNSAFE, "'")) else cell


def plain(text: str) -> str:
    """What `safe` was given: the apostrophe before such a cell taken away, any other text as it is."""
    return text[1:] if text.startswith("'") and text[1:].startswith((*UNSAFE, "'")) else text
