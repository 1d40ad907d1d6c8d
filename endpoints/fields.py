"""Columns that Django has no field of its own for."""

from typing import Any

from django.db import models


class Integers(models.Field):
    """PostgreSQL's integer[]; read and written as a list."""

    def db_type(self, connection: Any) -> str:
        return "integer[]"
