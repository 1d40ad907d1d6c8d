"""Scorers that need no engine, each with what it takes, refuses, cannot say, and what means harm."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground import score_judge, score_texts, scorers
from playground.scorers import BadScorer, Score, Scorer

NULL = None


def said(kind: str, answer: str, wanted: str, **more: Any) -> float | None:
    return scorers.score(Scorer(kind, **more), answer, wanted).value


def schema(answer: str, wanted: Any, **more: Any) -> Score:
    return scorers.score(Scorer("schema", **more), answer, json.dumps(wanted))


def refused(scorer: Scorer) -> dict[str, str]:
    before = time.monotonic()
    with pytest.raises(BadScorer) as caught:
        scorers.check(scorer)
    assert time.monotonic() - before < 1
    return caught.value.fields


# Texts


@pytest.mark.parametrize(
    ("answer", "wanted", "options", "value"),
    [
        ("Paris", "Paris", {}, 1),
        ("Paris ", "Paris", {}, 0),
        ("paris", "Paris", {}, 0),
        (" Paris\n", "Paris", {"space": True}, 1),
        ("New\u00a0 York", "New York", {"space": True}, 1),
        ("PARIS", "Paris", {"case": True}, 1),
        ("STRASSE", "Straße", {"case": True}, 1),
        ("Paris.", "Paris", {"punctuation": True}, 1),
        ("“Paris”!", "Paris", {"punctuation": True}, 1),
        # Composed and decomposed, full width and half: equal once anything is ignored.
        ("cafe\u0301", "café", {}, 0),
        ("cafe\u0301", "café", {"case": True}, 1),
        ("\uff30aris", "Paris", {"space": True}, 1),
        ("", "", {}, 1),
        ("x", "", {}, 0),
        ("Paris", "...", {"punctuation": True}, NULL),
    ],
)
def test_exact(answer: str, wanted: str, options: dict[str, bool], value: float | None) -> None:
    assert said("exact", answer, wanted, **options) == value


@pytest.mark.parametrize(
    ("answer", "wanted", "options", "value"),
    [
        ("It is Paris.", "Paris", {}, 1),
        ("It is paris.", "Paris", {}, 0),
        ("It is paris.", "Paris", {"case": True}, 1),
        ("Parisian life", "Paris", {}, 1),
        ("Parisian life", "Paris", {"whole": True}, 0),
        ("(Paris)", "Paris", {"whole": True}, 1),
        ("Fünf Äpfel", "äpfel", {"case": True, "whole": True}, 1),
        ("a.c", "a.c", {}, 1),
        ("abc", "a.c", {"whole": True}, 0),
        ("答案是巴黎。", "巴黎", {}, 1),
        ("anything", "", {}, NULL),
        ("anything", " ", {"space": True}, NULL),
    ],
)
def test_contains(answer: str, wanted: str, options: dict[str, bool], value: float | None) -> None:
    assert said("contains", answer, wanted, **options) == value


# Expressions


@pytest.mark.parametrize(
    ("answer", "wanted", "options", "value"),
    [
        ("The answer is B.", r"\b[ABCD]\b", {}, 1),
        ("The answer is b.", r"\b[ABCD]\b", {}, 0),
        ("the answer is b.", r"\b[bcd]\b", {"case": True}, 1),
        ("B.", "B", {"whole": True}, 0),
        ("B", "A|B", {"whole": True}, 1),
        ("naïve é", r"\wé|é$", {}, 1),
        ('{"a": 1}', r'{"a": \d+}', {}, 1),
        ("aaab", "a{2,3}b", {}, 1),
        ("a", "b{e<=3}", {}, 0),
        ("anything", "", {}, NULL),
        ("anything", "(", {}, NULL),
        ("anything", "(a+)+$", {}, NULL),
    ],
)
def test_expressions(answer: str, wanted: str, options: dict[str, bool], value: float | None) -> None:
    assert said("regex", answer, wanted, **options) == value


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a*)*", "((a|b)*)*", "(?=a)a", r"(a)\1", "a{100000}", "(", "[", "x" * 1001, r"\p{L}"],
)
def test_hostile_expressions_are_refused(pattern: str) -> None:
    assert "fixed" in refused(Scorer("regex", against="fixed", fixed=pattern))


def test_an_expression_that_is_dear_on_a_text_ends_in_time_and_says_so() -> None:
    # No repeat within a repeat, and yet the eighth power of the text's length.
    scorer = Scorer("regex", against="fixed", fixed=r"\w*\w*\w*\w*\w*\w*\w*\w*[,;]")
    scorers.check(scorer)
    before = time.monotonic()
    found = scorers.score(scorer, "ab" * 3000 + "!", scorer.fixed)
    assert time.monotonic() - before < 2
    assert found.value is None and found.dear and "more than 0.1 s" in found.why


# Numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It costs 1,234.50 dollars", ["1234.50"]),
        ("1.234.567 and 1.234,56", ["1234567", "1234.56"]),
        ("1,5 or 0,125", ["1.5", "0.125"]),
        ("1,2,3", ["1", "2", "3"]),
        ("10 000 and 1\u202f234 and 1'234'567", ["10000", "1234", "1234567"]),
        ("in 2024 100 people", ["2024", "100"]),
        ("-7, \u22127 and 3-5", ["-7", "-7", "3", "5"]),
        ("twenty-one", ["21"]),
        ("two hundred and five thousand three hundred and one", ["205301"]),
        ("minus three, one two three", ["-3", "1", "2", "3"]),
        ("three point one four", ["3.14"]),
        ("A hundred? Nineteen hundred!", ["100", "1900"]),
        ("5 million", ["5000000"]),
        ("1e5 and 50%", ["1E+5", "50"]),
        ("½ or 3/4", ["0.5", "0.75"]),
        ("on 12/05/2024", ["12", "5", "2024"]),
        ("the right one is 42", ["42"]),
        ("\\boxed{17}", ["17"]),
        ("٣٤ and \uff14\uff12", ["34", "42"]),
        ("none", []),
        ("", []),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, found: list[str]) -> None:
    assert [str(value) for value in score_texts.numbers(text)] == found


@pytest.mark.parametrize(
    ("answer", "wanted", "options", "value"),
    [
        ("The total is 1,000.", "1000", {}, 1),
        ("forty-two", "42", {}, 1),
        ("42", "forty-two", {}, 1),
        ("First 5, then 7.", "7", {}, 1),
        ("First 5, then 7.", "5", {}, 0),
        ("First 5, then 7.", "5", {"pick": "first"}, 1),
        ("First 5, then 7.", "7", {"pick": "only"}, 0),
        ("3.14", "3.14159", {}, 0),
        ("3.14", "3.14159", {"absolute": "0.01"}, 1),
        # Decimal, so that the edge is inside: 0.4 - 0.3 is 0.1.
        ("0.4", "0.3", {"absolute": "0.1"}, 1),
        ("0.41", "0.3", {"absolute": "0.1"}, 0),
        ("102", "100", {"relative": "0.02"}, 1),
        ("103", "100", {"relative": "0.02"}, 0),
        ("-102", "-100", {"relative": "0.02"}, 1),
        ("1e999", "5", {}, 0),
        ("I do not know", "5", {}, 0),
        ("5", "Paris", {}, NULL),
        ("5", "5 or 6", {}, NULL),
    ],
)
def test_numbers(answer: str, wanted: str, options: dict[str, str], value: float | None) -> None:
    assert said("number", answer, wanted, **options) == value


def test_why_a_number_is_wrong_is_told() -> None:
    assert scorers.score(Scorer("number"), "So 41.", "42").why == "41 instead of 42."
    assert scorers.score(Scorer("number"), "So?", "42").why == "No number in the answer."
    assert scorers.score(Scorer("number"), "5", "x").why == "The expected answer holds no number."
    assert scorers.score(Scorer("number"), "5", "5, 6").why == "The expected answer holds 2 numbers."


@pytest.mark.parametrize(
    "text", ["1" * 200_000, "1," * 100_000, "one and " * 30_000, "1." * 100_000, "-" * 200_000]
)
def test_long_texts_do_not_hold_it_up(text: str) -> None:
    before = time.monotonic()
    scorers.score(Scorer("number"), text, "1")
    assert time.monotonic() - before < 3


@given(st.text(max_size=300))
def test_any_text_is_scored_or_told_why_not(text: str) -> None:
    for kind in ("exact", "contains", "number", "regex"):
        for options in ({}, {"case": True, "space": True, "punctuation": True, "whole": True}):
            for pair in ((text, "Paris 5"), ("Paris 5", text)):
                found = scorers.score(Scorer(kind, **options), *pair)
                assert found.value in (0, 1) or (found.value is None and found.why)


# Schemas

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("answer", "value", "why"),
    [
        ('{"name": "Ada", "age": 36}', 1, ""),
        ('{"name": "Ada", "age": 36.0}', 1, ""),
        ('```json\n{"name": "Ada", "age": 36}\n```', 1, ""),
        ('{"name": "Ada"}', 0, "it lacks age."),
        ('{"name": "Ada", "age": "36"}', 0, "age is no integer."),
        ('{"name": "Ada", "age": true}', 0, "age is no integer."),
        ('{"name": "", "age": 1}', 0, "name has 0 characters."),
        ('{"name": "Ada", "age": -1}', 0, "age is below 0."),
        ('{"name": "Ada", "age": 1, "x": 2}', 0, "x is not expected."),
        ('Here: {"name": "Ada", "age": 36}', 0, "Not JSON: Expecting value at character 1."),
        ('{"name": "Ada", "age": NaN}', 0, "Not JSON: NaN is no JSON."),
        ('{"name": "Ada", "age": 1e999}', 0, "Not JSON: 1e999 is out of range."),
        ('{"age": 1, "age": 2}', 0, "Not JSON: a name is given twice in one object."),
        ("[" * 100_000, 0, "Not JSON: it is nested too deep."),
        ("[" * 150 + "]" * 150, 0, "Not JSON: it is nested more than 100 deep."),
        ("", 0, "Not JSON: Expecting value at character 1."),
    ],
)
def test_answers_fit_a_schema_or_say_where_not(answer: str, value: float, why: str) -> None:
    assert schema(answer, PERSON) == Score(value, why)


def test_a_fence_is_an_error_where_it_is_not_allowed() -> None:
    assert schema('```\n{"name": "Ada", "age": 36}\n```', PERSON, fenced=False).value == 0


@pytest.mark.parametrize(
    ("wanted", "good", "bad"),
    [
        ({"enum": ["a", 1]}, "1.0", "true"),
        ({"const": {"a": [1]}}, '{"a": [1.0]}', '{"a": [true]}'),
        ({"type": ["string", "null"]}, "null", "0"),
        ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, "5", "4"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 5}]}, "4", "6"),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, "2", "3"),
        ({"not": {"type": "string"}}, "1", '"a"'),
        ({"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"type": "null"}}, '"ab"', "1"),
        ({"prefixItems": [{"type": "string"}], "items": {"type": "number"}}, '["a", 1]', '["a", "b"]'),
        ({"items": False, "prefixItems": [True]}, "[1]", "[1, 2]"),
        ({"contains": {"type": "number"}, "maxContains": 1}, '[1, "a"]', "[1, 2]"),
        ({"uniqueItems": True}, "[1, true, [1], {}]", "[1, 1.0]"),
        ({"multipleOf": 0.01}, "19.99", "19.999"),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 1}, "0.5", "1"),
        ({"patternProperties": {"^n": {}}, "additionalProperties": False}, '{"n": 1}', '{"m": 1}'),
        ({"propertyNames": {"pattern": "^[a-z]+$"}}, '{"ab": 1}', '{"A": 1}'),
        ({"dependentRequired": {"a": ["b"]}}, '{"b": 1}', '{"a": 1}'),
        ({"dependentSchemas": {"a": {"maxProperties": 1}}}, '{"a": 1}', '{"a": 1, "b": 2}'),
        ({"$defs": {"n": {"type": "number"}}, "items": {"$ref": "#/$defs/n"}}, "[1]", '["1"]'),
        ({"type": "string", "pattern": "^é+$"}, '"éé"', '"e"'),
        ({"minItems": 1, "maxItems": 2}, "[1]", "[]"),
        (True, "1", ""),
    ],
)  # fmt: skip
def test_each_keyword_lets_through_and_stops(wanted: Any, good: str, bad: str) -> None:
    assert schema(good, wanted).value == 1
    assert schema(bad, wanted).value == 0


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        found = {"properties": {"a": found}}
    return found


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("{", "not JSON"),
        ("5", "must be a JSON schema"),
        (json.dumps({"$ref": "#"}), "refers to itself"),
        (json.dumps({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}), "to itself"),
        (json.dumps({"$ref": "https://example.com/x"}), "another document"),
        (json.dumps({"pattern": "(a+)+$"}), "repeats"),
        (json.dumps({"patternProperties": {"(": {}}}), "not a regular expression"),
        (json.dumps(nested(40)), "nested"),
        (json.dumps({"unevaluatedProperties": False}), "uses unevaluatedProperties, which is not checked"),
        (json.dumps({"items": [{}]}), "uses items as a list"),
        (json.dumps({"type": "text"}), "type"),
        (json.dumps({"required": "name"}), "required"),
        (json.dumps({"minLength": "x"}), "minLength"),
        (json.dumps({"multipleOf": 0}), "multipleOf"),
        (json.dumps({"properties": {"a": 5}}), "no schema where one belongs"),
        ('{"description": "' + "x" * 100_001 + '"}', "100,000 characters"),
    ],
)
def test_hostile_schemas_are_refused(wanted: str, why: str) -> None:
    assert why in refused(Scorer("schema", against="fixed", fixed=wanted))["fixed"]


def test_a_schema_that_doubles_with_each_reference_is_refused_at_once() -> None:
    defs: dict[str, Any] = {"d0": {"type": "string"}}
    for level in range(1, 30):
        both = [{"$ref": f"#/$defs/d{level - 1}"}] * 2
        defs[f"d{level}"] = {"anyOf": both}
    wrong = refused(
        Scorer("schema", against="fixed", fixed=json.dumps({"$defs": defs, "$ref": "#/$defs/d29"}))
    )
    assert "more than 10000 parts" in wrong["fixed"] or "deep" in wrong["fixed"]


def test_an_answer_that_takes_too_many_steps_is_not_scored() -> None:
    wanted = {"items": {"anyOf": [{"maximum": -place} for place in range(400)] + [True]}}
    found = schema(json.dumps([5] * 5000), wanted)
    assert found.value is None and found.dear and "too many steps" in found.why


# Judges


@pytest.mark.parametrize(
    ("answer", "value"), [("Score: 10", 1.0), ("Good.\n\nScore: 7\n", 0.7), ("  Score: 0  ", 0.0)]
)
def test_a_judge_is_read_by_its_last_line(answer: str, value: float) -> None:
    assert score_judge.read(answer) == value


@pytest.mark.parametrize(
    "answer",
    ["", "10", "Score: 11", "Score: -1", "Score: 07", "score: 7", "Score: 7/10", "**Score: 7**", "Score: 7.",
     "Score: 7\nThat is all.", "Score: 7.5", "Score: ten", "The answer says Score: 10", "Score: \uff17"],
)  # fmt: skip
def test_a_judge_that_does_not_answer_as_asked_says_nothing(answer: str) -> None:
    with pytest.raises(score_judge.Unreadable, match="last line is not"):
        score_judge.read(answer)


def test_what_an_answer_holds_is_not_filled_in_again() -> None:
    prompt = "Q {{question}} E {{ expected }} A {{answer}}"
    assert score_judge.filled(prompt, "{{answer}}", None, "{{expected}} \\1") == (
        "Q {{answer}} E (none given) A {{expected}} \\1"
    )


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("Rate it.", "does not show the answer"),
        ("{{answer}} {{secret}}", "no {{secret}}"),
        ("{{answer}}" + "x" * 20_000, "20,000 is the most"),
    ],
)
def test_a_judges_prompt_shows_the_answer_and_nothing_unknown(prompt: str, why: str) -> None:
    assert why in refused(Scorer("judge", deployment=1, prompt=prompt))["prompt"]


def test_a_question_is_shown_by_its_roles() -> None:
    one = {"messages": [{"role": "user", "content": "Hello?"}]}
    two = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [
        {"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {}}]}]}  # fmt: skip
    assert score_judge.question_of(one) == "Hello?"
    assert score_judge.question_of(two) == "system: Be brief.\n\nuser: What is it?\n(image_url)"
    assert score_judge.question_of({"prompt": "Once"}) == "Once"


# Settings


@pytest.mark.parametrize(
    ("scorer", "fields"),
    [
        (Scorer("nonsense"), {"kind"}),
        (Scorer("exact", against="nowhere"), {"against"}),
        (Scorer("exact", against="cell"), {"cell"}),
        (Scorer("exact", against="fixed"), {"fixed"}),
        (Scorer("exact", against="fixed", fixed="...", punctuation=True), {"fixed"}),
        (Scorer("exact", name="x" * 61), {"name"}),
        (Scorer("contains", against="fixed", fixed="x\0"), {"fixed"}),
        (Scorer("contains", against="fixed", fixed="x" * 20_001), {"fixed"}),
        (Scorer("number", absolute="-1", relative="nan", pick="all"), {"absolute", "relative", "pick"}),
        (Scorer("number", against="fixed", fixed="none"), {"fixed"}),
        (Scorer("schema"), {"against"}),
        (Scorer("similarity", least=2), {"deployment", "least"}),
        (Scorer("judge", prompt="{{answer}}", max_tokens=0), {"deployment", "max_tokens"}),
    ],
)
def test_wrong_settings_are_named(scorer: Scorer, fields: set[str]) -> None:
    assert refused(scorer).keys() == fields


def test_a_scorer_is_kept_as_little_as_it_says_and_comes_back() -> None:
    scorer = Scorer("number", name="Total", absolute="0.5")
    assert scorer.kept() == {"kind": "number", "name": "Total", "absolute": "0.5"}
    assert scorers.made(scorer.kept() | {"later": 1}) == scorer


def test_a_row_tells_its_right_answer_in_three_ways() -> None:
    cells = {"a": 5, "b": None}
    assert Scorer("exact").wanted("x", cells) == "x"
    assert Scorer("exact", against="fixed", fixed="y").wanted(None, cells) == "y"
    assert Scorer("exact", against="cell", cell="a").wanted("x", cells) == "5"
    assert Scorer("exact", against="cell", cell="b").wanted("x", cells) is None
