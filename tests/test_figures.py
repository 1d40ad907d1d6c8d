"""Figures as people read them, and forms made from types."""

from datetime import timedelta
from decimal import Decimal
from typing import Literal

import pytest
from django.http import QueryDict
from pydantic import Field

from playground import forms
from playground.engines.base import EngineOptions, option
from playground.templatetags import figures


class Small(EngineOptions):
    context: int | None = option("Context", "Tokens.", "Context", "--ctx", ge=256, le=10_000_000)
    share: float | None = Field(None, ge=0, le=1)
    kind: Literal["f16", "q8_0"] | None = option("Kind", "Bits.", "Memory", "--kind")
    warm: bool | None = option("Warm", "First run.", "Memory", "--warm")
    stops: tuple[str, ...] | None = option("Stops", "Words.", "Memory", "--stop")


class Other(EngineOptions):
    max_model_len: int | None = option("Context", "Tokens.", "Context", "--max-model-len")
    warm: bool | None = option("Warm", "First run.", "Memory")
    stops: tuple[str, ...] | None = option("Stop words", "Words.", "Memory")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (figures.bytes_(1_234_567_890), "1.23 GB"),
        (figures.bytes_(999_999), "1 MB"),
        (figures.bytes_(None), "n/a"),
        (figures.memory(2 << 30), "2 GiB"),
        (figures.memory(383 << 20), "383 MiB"),
        (figures.count(134_515_008), "135 M"),
        (figures.number(32768), "32,768"),
        (figures.number(0.0), "0"),
        (figures.price(Decimal("2.4900")), "2.49"),
        (figures.price(Decimal("20.0000")), "20"),
        (figures.ms(41.3), "41 ms"),
        (figures.ms(2130), "2.1 s"),
        (figures.duration(0.12), "0.1 s"),
        (figures.duration(125), "2 min 5 s"),
        (figures.duration(timedelta(hours=2, minutes=1)), "2 h 1 min"),
        (figures.duration(None), "n/a"),
        (figures.rate(96.42), "96.4 tok/s"),
        (figures.percent(0.12, 1), "12 %"),
    ],
)
def test_figures_are_short_and_missing_ones_say_so(text: str, expected: str) -> None:
    assert text == expected


def test_a_long_name_is_cut_in_the_middle_and_kept_whole_beside_it() -> None:
    text = figures.cut("a" * 30 + "<b>" + "z" * 30, 21)
    assert "aaaaaaaaaa…zzzzzzzzzz" in text
    assert "<b>" not in text
    assert figures.cut("short", 21) == "short"


def test_a_command_is_shown_as_a_shell_takes_it() -> None:
    text = figures.command_line(["python", "-u", "a b.py", "--flag", "--port", "1;rm"])
    assert text == "python \\\n  -u 'a b.py' \\\n  --flag \\\n  --port '1;rm'"


def test_a_form_has_a_field_of_the_right_kind_for_each_option() -> None:
    fields = {field.title: field for group in forms.groups(Small, {"context": "5"}) for field in group.fields}
    assert (fields["Context"].kind, fields["Context"].value) == ("number", "5")
    assert fields["Context"].range == "256 to 10,000,000"
    assert fields["Kind"].choices == (("f16", "f16"), ("q8_0", "q8_0"))
    assert fields["Warm"].choices == (("true", "on"), ("false", "off"))
    assert fields["Warm"].unset == "engine default"


def test_only_what_was_set_is_given() -> None:
    posted = QueryDict("option.context=512&option.kind=&option.stops=a,+b&other=1&option.none=2")
    assert forms.given(Small, posted) == {"context": "512", "stops": ["a", "b"]}


def test_options_that_mean_the_same_are_carried_to_another_engine() -> None:
    given = {"context": 512, "kind": "f16", "warm": True, "stops": ("a",)}
    assert forms.carried(Small, Other, given) == {
        "max_model_len": 512,
        "warm": True,
    }
