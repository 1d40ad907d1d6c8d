"""Whether a chat template does only what templates are for. It is read here, never rendered.

Engines render it, and some once did so without a sandbox. So a template that reaches for Python's insides or
for other files is refused before any engine sees it. What reading cannot tell (a loop without an end) is
contained where it runs: that replica fails.
"""

import re
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension, do, loopcontrols

MAX_TEMPLATE = 1 << 20
# Attributes without underscores that lead from a generator, a frame or a function to everything.
INSIDES = re.compile(r"_.*|(gi|cr|ag|f|co|tb|func|im)_.*|mro")
DUNDER = re.compile(r".*__\w+__.*", re.DOTALL)
# What such a name is put together from.
PARTS = re.compile(r"_+|__.*|.*__", re.DOTALL)
EXPRESSIONS = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)


class Hostile(Exception):
    """A template that no engine should render; the text says what it does."""


class _Generation(Extension):
    """{% generation %} marks the model's own words for training; it means nothing here."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


_environment = Environment(extensions=[loopcontrols, do, _Generation], autoescape=False)


def check(template: str) -> None:
    """Raise Hostile when the template reaches beyond what it is given."""
    if len(template) > MAX_TEMPLATE:
        raise Hostile("the chat template is longer than 1 MB.")
    try:
        tree = _environment.parse(template)
        for node in tree.find_all(nodes.Node):
            _check_node(node)
    except TemplateSyntaxError:
        # Another dialect, which its engine knows or refuses. What matters is seen without understanding it.
        _check_text(template)
    except RecursionError as problem:
        raise Hostile("the chat template is nested too deeply.") from problem


def _check_node(node: nodes.Node) -> None:
    if isinstance(node, (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise Hostile("the chat template reads other files.")
    if isinstance(node, nodes.Filter) and node.name == "attr":
        raise _insides("attr")
    if isinstance(node, nodes.Getattr):
        _check_name(node.attr, INSIDES)
    if isinstance(node, nodes.Getitem):
        _check_name(_constant(node.arg), INSIDES)
    if isinstance(node, nodes.Keyword):
        _check_name(node.key, DUNDER)
    _check_name(_constant(node), DUNDER)
    if isinstance(node, (nodes.BinExpr, nodes.Concat, nodes.List, nodes.Tuple)):
        for part in node.iter_child_nodes():
            _check_name(_constant(part), PARTS)


def _constant(node: nodes.Node) -> str:
    return node.value if isinstance(node, nodes.Const) and isinstance(node.value, str) else ""


def _check_name(name: str, hostile: re.Pattern[str]) -> None:
    if hostile.fullmatch(name):
        raise _insides(name)


def _check_text(template: str) -> None:
    for found in EXPRESSIONS.finditer(template):
        if hit := re.search(r"__\w+|\|\s*attr\b|\\x5f|\\u005f", found[0]):
            raise _insides(hit[0])


def _insides(name: str) -> Hostile:
    return Hostile(f"the chat template reaches for Python's insides ({name[:40]}).")
