"""Takes one check out of one view, as a careless change would, while a test looks whether it is seen."""

import ast
import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from django.db.models import Model as Row
from django.db.models import QuerySet
from django.http import Http404

from playground import access

CHECKS = ("require", "fetch")


@dataclass(frozen=True)
class Check:
    """One call of `access.require` or `access.fetch`: in which module and function, on which lines."""

    module: str
    function: str
    call: str
    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.module}.{self.function}-{self.call}"

    def __str__(self) -> str:
        return f"{self.name}-{self.first}"


def checks(modules: Iterable[str]) -> Iterator[Check]:
    """Every one in these modules, by their source."""
    for name in sorted(set(modules)):
        tree = ast.parse(inspect.getsource(importlib.import_module(name)))
        functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in functions:
            for one in ast.walk(function):
                if isinstance(one, ast.Call) and (call := _named(one)):
                    yield Check(name, function.name, call, one.lineno, one.end_lineno or one.lineno)


def _named(call: ast.Call) -> str | None:
    at = call.func
    mine = isinstance(at, ast.Attribute) and isinstance(at.value, ast.Name) and at.value.id == "access"
    return at.attr if mine and isinstance(at, ast.Attribute) and at.attr in CHECKS else None


class _Loose:
    """The module `access`, but for one call of one view."""

    def __init__(self, check: Check) -> None:
        self._check = check

    def __getattr__(self, name: str) -> Any:
        return getattr(access, name)

    def _is_it(self, call: str) -> bool:
        caller = sys._getframe(2)
        return call == self._check.call and self._check.first <= caller.f_lineno <= self._check.last

    def require(self, *given: Any, **named: Any) -> None:
        if not self._is_it("require"):
            access.require(*given, **named)

    def fetch[R: Row](self, user: Any, rows: QuerySet[R], pk: int | str, *, write: bool = False) -> R:
        if not self._is_it("fetch"):
            return access.fetch(user, rows, pk, write=write)
        row = rows.filter(pk=pk).first()
        if row is None:
            raise Http404
        return row


@contextmanager
def without(check: Check) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module(check.module), "access", _Loose(check))
        yield
