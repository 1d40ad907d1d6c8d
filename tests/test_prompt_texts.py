"""What a prompt may say and how its variables are filled in: values alone, no database."""

import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground import prompt_texts
from playground.prompt_texts import PromptRefused, escape, filled, pieces, used

BRACED = st.text(alphabet="ab{} \\\n", max_size=60)


@dataclass
class Said:
    messages: list[dict[str, Any]]
    variables: list[dict[str, Any]] = field(default_factory=list)


def version(text: Any, *variables: dict[str, Any], role: str = "user") -> Said:
    messages = [{"role": role, "content": text}]
    return Said(messages, prompt_texts.declared(messages, list(variables)))


def text_of(said: Said, **values: Any) -> Any:
    return filled(said, values)[0]["content"]


def refused(said: Said, **values: Any) -> PromptRefused:
    with pytest.raises(PromptRefused) as caught:
        filled(said, values)
    return caught.value


# Filling


def test_it_fills_every_text_of_every_role() -> None:
    said = version("{{a}}")
    picture = {"type": "image_url", "image_url": {"url": "data:{{a}}"}}
    said.messages = [
        {"role": "system", "content": "You help with {{ a }}."},
        {"role": "developer", "content": "{{a}}{{a}}"},
        {"role": "user", "content": [{"type": "text", "text": "see {{a}}"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "{{a}}", "tool_call_id": "1"},
    ]
    found = filled(said, {"a": "ships"})
    assert found[0]["content"] == "You help with ships."
    assert found[1]["content"] == "shipsships"
    assert found[2]["content"] == [{"type": "text", "text": "see ships"}, picture]
    assert found[3] == said.messages[3]
    assert found[4] == {"role": "tool", "content": "ships", "tool_call_id": "1"}
    assert said.messages[2]["content"][0]["text"] == "see {{a}}"


def test_a_value_is_text_and_never_looked_at_again() -> None:
    said = version("{{a}} {{b}}")
    assert text_of(said, a="{{b}}", b="\\{{a}} {{a}}") == "{{b}} \\{{a}} {{a}}"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("\\{{a}}", "{{a}}"),
        ("\\\\{{a}}", "\\X"),
        ("\\\\\\{{ a }}", "\\{{ a }}"),
        ("\\frac{{{a}}}{2}", "\\frac{X}{2}"),
        ("{{a}}{{a}}", "XX"),
        ("{{ not one }} {{1}} {{}} {{a", "{{ not one }} {{1}} {{}} {{a"),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ("\\\\ \\n", "\\\\ \\n"),
    ],
)
def test_a_backslash_makes_a_name_in_braces_text(written: str, read: str) -> None:
    names = {name: "X" for name in used([{"content": written}])}
    assert text_of(version(written), **names) == read


@given(BRACED)
def test_what_is_escaped_comes_back(text: str) -> None:
    assert used([{"content": escape(text)}]) == []
    assert text_of(version(escape(text))) == text


@given(BRACED.map(lambda text: text.replace("\\", "")), BRACED)
def test_what_is_marked_is_what_is_filled(text: str, value: str) -> None:
    said = version(text)
    shown = "".join(value if name else part for part, name in pieces(text))
    assert text_of(said, **dict.fromkeys(used(said.messages), value)) == shown
    assert "".join(part for part, _ in pieces(text)) == text


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("text", "", ""),
        ("number", 3, "3"),
        ("number", 0.5, "0.5"),
        ("number", "12", "12"),
        ("boolean", True, "true"),
        ("boolean", "false", "false"),
        ("choice", "low", "low"),
        ("json", {"ä": [1, None]}, '{"ä": [1, null]}'),
        ("json", "x", '"x"'),
        ("json", False, "false"),
    ],
)
def test_a_value_of_its_type_is_put_in(kind: str, value: Any, text: str) -> None:
    more = {"choices": ["low", "high"]} if kind == "choice" else {}
    said = version("<{{a}}>", {"name": "a", "type": kind, **more})
    assert text_of(said, a=value) == f"<{text}>"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", 3),
        ("text", ["a"]),
        ("text", "\x00"),
        ("text", "\ud800"),
        ("number", "many"),
        ("number", True),
        ("number", "true"),
        ("number", '1, "b": 2'),
        ("number", float("nan")),
        ("number", float("inf")),
        ("boolean", 1),
        ("boolean", "yes"),
        ("choice", "middle"),
        ("choice", 1),
        ("json", float("nan")),
        ("json", {1, 2}),
    ],
)
def test_a_value_of_another_type_is_refused(kind: str, value: Any) -> None:
    more = {"choices": ["low", "high"]} if kind == "choice" else {}
    assert refused(version("{{a}}", {"name": "a", "type": kind, **more}), a=value).name == "a"


def test_a_default_stands_for_an_absent_value() -> None:
    said = version("{{a}}{{b}}", {"name": "a", "default": "x"}, {"name": "b", "type": "number", "default": 0})
    assert text_of(said) == "x0"
    assert text_of(said, a=None, b=1) == "x1"
    assert text_of(said, a="") == "0"


def test_a_missing_and_an_unknown_variable_are_named() -> None:
    assert refused(version("{{a}} {{b}}"), a="x").name == "b"
    assert str(refused(version("{{a}}"), a="x", c="y")) == "The prompt has no variable 'c'."


def test_a_value_put_in_often_cannot_fill_the_memory() -> None:
    before = time.monotonic()
    assert "is the most" in str(refused(version("{{a}}" * 10_000), a="x" * 100_000))
    assert time.monotonic() - before < 2


@pytest.mark.parametrize("text", ["\\" * 200_000, "{" * 200_000, "{{a" + " " * 200_000, "{{a " * 50_000])
def test_odd_texts_take_no_long_time(text: str) -> None:
    before = time.monotonic()
    assert text_of(version(text)) == text
    assert text_of(version(escape(text))) == text
    assert time.monotonic() - before < 2


def test_values_are_read_from_forms() -> None:
    said = version("", {"name": "n", "type": "number"}, {"name": "j", "type": "json"}, {"name": "t"})
    found = prompt_texts.read(said.variables, {"n": "1.5", "j": '[1, {"a": null}]', "t": "", "odd": "x"})
    assert found == {"n": 1.5, "j": [1, {"a": None}]}
    assert prompt_texts.read(said.variables, {"t": ""}, blank=True) == {"t": ""}
    with pytest.raises(PromptRefused) as caught:
        prompt_texts.read(said.variables, {"j": "[1,"})
    assert caught.value.name == "j"


# What may be kept


def test_names_in_use_are_declared_after_those_given() -> None:
    said = version("{{b}} {{a}}", {"name": "a", "type": "number", "default": "3", "description": "how many"})
    assert said.variables == [
        {"name": "a", "type": "number", "default": 3, "description": "how many"},
        {"name": "b", "type": "text", "default": None, "description": ""},
    ]


@pytest.mark.parametrize(
    "variable",
    [
        "a",
        {"name": ""},
        {"name": "1a"},
        {"name": "a b"},
        {"name": "a" * 61},
        {"name": 5},
        {"name": "a", "type": "date"},
        {"name": "a", "type": "choice"},
        {"name": "a", "type": "choice", "choices": []},
        {"name": "a", "type": "choice", "choices": [1]},
        {"name": "a", "type": "choice", "choices": ["x"], "default": "y"},
        {"name": "a", "type": "number", "default": "x"},
        {"name": "a", "description": 5},
        {"name": "a", "colour": "red"},
    ],
)
def test_a_variable_that_is_none_is_refused(variable: Any) -> None:
    with pytest.raises(PromptRefused):
        prompt_texts.declared([{"role": "user", "content": "x"}], [variable])


def test_a_variable_twice_is_refused() -> None:
    with pytest.raises(PromptRefused, match="twice"):
        prompt_texts.declared([], [{"name": "a"}, {"name": "a"}])


HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"temperature": 0.2, "max_tokens": 5, "seed": 1},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "object"}},
            }
        },
        {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]},
    ],
)
def test_what_an_engine_may_be_asked_may_be_kept(parameters: Any) -> None:
    prompt_texts.check(HELLO, parameters)


def deep() -> Any:
    found: Any = "x"
    for _ in range(80):
        found = {"type": "object", "properties": {"a": found}}
    return found


@pytest.mark.parametrize(
    ("messages", "parameters"),
    [
        ([], {}),
        ("Hello", {}),
        (HELLO * 201, {}),
        (["Hello"], {}),
        ([{"role": "boss", "content": "x"}], {}),
        ([{"role": "function", "content": "x"}], {}),
        ([{"role": "user"}], {}),
        ([{"role": "user", "content": 5}], {}),
        ([{"role": "user", "content": "\x00"}], {}),
        ([{"role": "user", "content": "\ud800"}], {}),
        ([{"role": "user", "content": "x" * 400_001}], {}),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "http://a"}]}], {}),
        (HELLO, []),
        (HELLO, {"temperature": 9}),
        (HELLO, {"temperature": float("nan")}),
        (HELLO, {"model": "x"}),
        (HELLO, {"stream": True}),
        (HELLO, {"chat_template": "x"}),
        (HELLO, {"response_format": {"type": "json_schema", "json_schema": {"schema": deep()}}}),
        (HELLO, {"tools": [{"name": "x"}]}),
        (HELLO, {"seed": {1}}),
    ],
)
def test_what_no_engine_may_be_asked_is_refused(messages: Any, parameters: Any) -> None:
    with pytest.raises(PromptRefused):
        prompt_texts.check(messages, parameters)


def test_a_backslash_before_u0000_is_text() -> None:
    prompt_texts.check([{"role": "user", "content": "\\u0000 \\\\u0000"}], {})


def test_what_looks_like_a_slip_is_told() -> None:
    messages = [{"role": "user", "content": "{{a}} {{the product}} \\{{b c}} {{}}"}]
    assert prompt_texts.oddities(messages) == ["the product", ""]
