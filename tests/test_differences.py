"""How two texts differ by word and by token, where they part, and the line that says so. No engine."""

import time
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any

import pytest

from playground import differences
from playground.differences import Piece, compare, line, lines, parting, words
from playground.engines.pieces import spelled
from playground.tokenised import Tokenised, _cut

FAMILY = "\U0001f469\u200d\U0001f467"
THUMB = "\U0001f44d\U0001f3fd"


@dataclass
class Answer:
    text: str = ""
    reasoning: str = ""
    request: Any = field(default_factory=lambda: {"messages": [{"role": "user", "content": "hi"}]})
    state: str = "complete"
    finish_reason: str = "stop"
    effective: Any = field(default_factory=dict)


def pieces(a: str, b: str) -> list[tuple[str, str]]:
    return [(piece.kind, piece.text) for piece in compare(words(a), words(b)).pieces]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Hello, big  world!\n", ["Hello", ",", " ", "big", "  ", "world", "!", "\n"]),
        ("wo\u0301rld e\u0301", ["wo\u0301rld", " ", "e\u0301"]),
        (f"{FAMILY}{THUMB} \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", None),
        ("日本語 テスト", ["日", "本", "語", " ", "テ", "ス", "ト"]),
        ("हिन्दी भाषा", ["हिन्दी", " ", "भाषा"]),
        ("snake_case 3.14", ["snake_case", " ", "3", ".", "14"]),
        ("", []),
    ],
)
def test_a_text_is_cut_where_a_person_sees_words(text: str, found: list[str] | None) -> None:
    german, french = "\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7"
    assert words(text) == (found if found is not None else [FAMILY, THUMB, " ", german, french])
    assert "".join(words(text)) == text


def test_what_differs_stands_apart_from_what_does_not() -> None:
    assert pieces("the cat sat", "the dog sat") == [
        ("same", "the "),
        ("gone", "cat"),
        ("new", "dog"),
        ("same", " sat"),
    ]
    found = compare(words("the cat sat"), words("the dog sat"))
    assert "".join(piece.text for piece in found.left) == "the cat sat"
    assert "".join(piece.text for piece in found.right) == "the dog sat"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("", ""),
        ("same", "same"),
        ("", "all of it"),
        ("all of it", ""),
        ("one two", "one two three"),
        ("one  two", "one two"),
        ("e\u0301", "\u00e9"),
        (f"{FAMILY} x", f"{THUMB} x"),
        ("a b a b a b", "b a b a b a"),
        ("<script>alert(1)</script>", "<b>"),
    ],
)
def test_each_side_is_whole_whatever_they_are(a: str, b: str) -> None:
    found = compare(words(a), words(b))
    assert "".join(piece.text for piece in found.left) == a
    assert "".join(piece.text for piece in found.right) == b
    assert found.identical == (a == b)
    assert found.uncompared == 0


def test_by_token_what_differs_stays_cut_into_tokens() -> None:
    found = compare(["a", " b", " c", " d"], ["a", " x", " y", " d"], apart=True)
    assert [(piece.kind, piece.text) for piece in found.pieces] == [
        ("same", "a"),
        ("gone", " b"),
        ("gone", " c"),
        ("new", " x"),
        ("new", " y"),
        ("same", " d"),
    ]


def test_white_space_that_differs_alone_is_made_visible() -> None:
    gone = [piece for piece in compare(words("a \n b"), words("a\tb")).pieces if piece.kind != "same"]
    assert [piece.shown for piece in gone] == ["␣↵\n␣", "⇥\t"]
    assert Piece("same", " ").shown == " "


def test_a_long_run_that_is_the_same_is_folded() -> None:
    head, middle, tail = Piece("same", "x" * 3000).folded
    assert (len(head), len(middle), len(tail)) == (600, 1800, 600)
    assert Piece("same", "short").folded == ("", "", "")
    assert Piece("new", "x" * 3000).folded == ("", "", "")


def test_answers_of_400_000_characters_take_no_while_and_it_says_what_was_not_compared() -> None:
    a = "red, green . " * 30_000
    b = "blue red. green, " * 23_000
    began = time.perf_counter()
    found = compare(words(a), words(b))
    assert time.perf_counter() - began < 10
    assert "".join(piece.text for piece in found.left) == a
    assert "".join(piece.text for piece in found.right) == b
    assert found.uncompared == max(len(words(a)), len(words(b))) - differences.SPAN - _agreed(a, b)


def _agreed(a: str, b: str) -> int:
    """The words both end with, which are set aside before any are counted."""
    left, right = words(a)[::-1], words(b)[::-1]
    return next(at for at, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)


def test_a_difference_at_the_end_of_a_long_answer_is_found_whole() -> None:
    a = "word " * 80_000
    found = compare(words(a + "Paris"), words(a + "the city"))
    assert found.uncompared == 0
    assert [piece.kind for piece in found.pieces] == ["same", "gone", "new"]


def test_the_parting_is_told_by_character_and_by_word() -> None:
    found = parting("The capital is Paris.", "The capital is the city.")
    assert found is not None
    assert (found.character, found.word, found.first, found.space) == (16, 4, ("Paris", "the"), False)
    assert parting("same", "same") is None
    ended = parting("one two", "one two three")
    assert ended is not None
    assert (ended.character, ended.word, ended.first) == (8, 3, ("", "three"))
    space = parting("one two", "one  two")
    assert space is not None
    assert space.space and space.word == 1


@pytest.mark.parametrize(
    "parts", [["a", " ", "b"], ["ab", "\n", "e\u0301", ".", "日"], ["x\u200d", " ", " ", "y"]]
)
def test_the_parting_is_where_the_words_are_not_the_same(parts: list[str]) -> None:
    """Worked out near the place alone, it is what all words of both texts tell."""
    texts = {"".join(some) for size in range(4) for some in product(parts, repeat=size)}
    for a, b in permutations(sorted(texts), 2):
        found = parting(a, b)
        assert found is not None
        left, right = words(a), words(b)
        same = next(
            (at for at, (x, y) in enumerate(zip(left, right, strict=False)) if x != y),
            min(len(left), len(right)),
        )
        before = sum(not word.isspace() for word in left[:same])
        assert found.word == (before if found.space else before + 1), (a, b)
        assert a[: found.character - 1] == b[: found.character - 1]
        assert a[: found.character] != b[: found.character]


def test_lines_of_long_answers_take_no_while() -> None:
    a = Answer("word " * 80_000 + "Paris")
    began = time.perf_counter()
    assert lines([a, Answer(a.text + "!"), Answer("x" + a.text), a])[2] == "1\u20134 identical"
    assert time.perf_counter() - began < 3


def test_one_line_says_how_two_answers_differ() -> None:
    a, b = Answer("The capital is Paris."), Answer("The capital is the city.")
    assert line(a, b) == "1\u20132 part at word 4 (“Paris” / “the”)"
    assert lines([a, a, b]) == ["1\u20132 identical", "1\u20133 part at word 4 (“Paris” / “the”)"]
    assert lines([a, b], ["2", "5"]) == ["2\u20135 part at word 4 (“Paris” / “the”)"]
    assert lines([a]) == []
    assert line(Answer(), Answer()) == "1\u20132 both empty"
    assert line(Answer("one two"), Answer("one  two")) == (
        "1\u20132 part at white space after word 1 (“␣” / “␣␣”)"
    )
    assert line(Answer("one"), Answer("one two")) == "1\u20132 part at word 2 (its end / “two”)"


def test_what_was_cut_off_does_not_part_at_its_end() -> None:
    short = Answer("one two", finish_reason="length")
    assert line(short, Answer("one two three")) == "1\u20132 the same as far as 1 goes"
    assert line(Answer("one two three"), Answer("one two", state="stopped")) == (
        "1\u20132 the same as far as 2 goes"
    )


def test_reasoning_is_compared_before_the_answer() -> None:
    assert line(Answer("Yes", "I think"), Answer("Yes", "I doubt")).startswith("1\u20132 part at word 2")


def test_answers_to_other_histories_name_no_divergence() -> None:
    hi, before = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello!"}
    other = {"role": "assistant", "content": "Good day."}
    system = {"role": "system", "content": "Be brief."}
    picture = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "image:1"}}]

    def asked(*messages: dict[str, Any]) -> Answer:
        return Answer("x", request={"messages": list(messages)})

    histories = asked(hi, before, hi), asked(hi, other, hi)
    assert "no winner" in differences.told(histories[0].request, histories[1].request)
    assert line(*histories) == "1\u20132 histories differ"
    assert line(asked(hi), asked(system, hi)) == "1\u20132 system prompts differ"
    assert line(asked(hi), asked({"role": "user", "content": picture})) == "1\u20132 not asked the same"
    assert line(asked(hi), Answer("x", request={})) == "1\u20132 not asked the same"
    assert line(Answer("x", request={"prompt": "a"}), Answer("x", request={"prompt": "a"})).endswith(
        "identical"
    )


def test_tokens_within_a_character_are_shown_with_the_one_that_ends_it() -> None:
    tokens = ((5, b"a"), (6, b" \xf0\x9f"), (7, b"\x91"), (8, b"\xa9"), (9, b"!"))
    assert Tokenised(tokens).texts == ["a", " \U0001f469", "!"]
    assert Tokenised(tokens[:2]).texts == ["a", " \ufffd"]
    assert Tokenised(((1, b"a"), (2, b""), (3, "\U0001f469".encode()))).texts == ["a", "\U0001f469"]
    assert Tokenised().texts == []


def test_a_tokenizer_s_spans_cut_the_text_and_leave_nothing_out() -> None:
    spans = [(0, 1), (1, 3), (1, 3), (3, 4)]
    assert _cut("a \U0001f469!", [5, 6, 7, 8], spans) == [
        (5, b"a"),
        (6, b""),
        (7, " \U0001f469".encode()),
        (8, b"!"),
    ]
    # What a tokenizer takes for no token of its own goes with the next one.
    assert _cut("a  b", [1, 2], [(0, 1), (3, 4)]) == [(1, b"a"), (2, b"  b")]
    assert _cut("ab", [1], [(0, 1)]) is None


def test_tokens_are_spelled_as_vocabularies_name_them() -> None:
    assert spelled(["héllo", " ", "x"], "héllo x") == ["héllo".encode(), b" ", b"x"]
    assert spelled(["h", "Ã©", "llo", "ĠðŁ", "ĳ", "©", "Ċ"], "héllo \U0001f469\n") == [
        b"h",
        "é".encode(),
        b"llo",
        b" \xf0\x9f",
        b"\x91",
        b"\xa9",
        b"\n",
    ]
    assert spelled(["▁Hi", "▁you", "<0x0A>"], "Hi you\n") == [b"Hi", b" you", b"\n"]
    assert spelled(["Hi", "\ufffd"], "Hi \U0001f469") is None
    assert spelled([], "") == []
