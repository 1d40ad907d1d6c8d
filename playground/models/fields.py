"""Columns for JSON that a person or a client wrote: it comes back as it was written.

`jsonb` puts the keys of an object into an order of its own. Where they stand means something, though: an
engine writes an answer's fields in the order of the schema's properties, and a model reads tools as text.
"""

import json
import re
from typing import Any

from django.db import DataError, models
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.types.json import Json

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_HALF = re.compile("[\ud800-\udfff]")


def written(value: Any) -> str:
    """The value as these columns hold it; DataError for text that `jsonb` would refuse as well.

    Letters as themselves, so that text is found. `json` itself would take NUL and halves of surrogate pairs,
    and a query that looks inside would break on them later.
    """
    text = json.dumps(value, ensure_ascii=False)
    if "\\u0000" in text and _NUL.search(text):
        raise DataError("The text holds a NUL character, which cannot be kept.")
    if not text.isascii() and _HALF.search(text):
        raise DataError("The text holds half a surrogate pair, which cannot be kept.")
    return text


class OrderedJSONField(models.JSONField):
    """A JSONField in a `json` column. Its text can be searched; PostgreSQL compares no two of them.

    A query by value or by what is inside says `Cast(name, JSONField())`, and so does DISTINCT.
    """

    LOOKUPS = frozenset({"isnull", "icontains"})

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return "json"

    def from_db_value(self, value: Any, expression: Any, connection: BaseDatabaseWrapper) -> Any:
        """psycopg has read it: Django has it leave only `jsonb` as text."""
        return value

    def get_db_prep_value(
        self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False
    ) -> Json | None:
        return Json(value, dumps=written)

    def get_lookup(self, lookup_name: str) -> Any:
        return super().get_lookup(lookup_name) if lookup_name in self.LOOKUPS else None

    def get_transform(self, lookup_name: str) -> Any:
        return None
