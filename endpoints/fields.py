"""Columns whose field in Django wants the app django.contrib.postgres, which nothing else here needs."""

from typing import Any

from django.db import models


class Integers(models.Field):
    """PostgreSQL's integer[]; read and written as a list."""

    def db_type(self, connection: Any) -> str:
        return "integer[]"
