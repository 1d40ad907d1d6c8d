"""Where answers part by token: margins, ties and why there are none; pure, and by engines asked once more."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import Client
from django.urls import reverse

from playground import beside, divergence, engine_client, looks, margins, votes
from playground.looks import Look, Value
from playground.margins import Divergence, Run, Token, judge, known
from playground.models import Conversation, Generation, Membership, Model, Team, Turn, User
from playground.views import differences
from tests import chats
from tests.fake_adapter import Fake
from tests.fakes import RunningFake

NAMES = ("vLLM", "llama.cpp")
ANSWERS = ("It is Paris now", "It is the city")


def token(text: str, logprob: float | None = -0.1, **others: float) -> Token:
    likely = [(text, logprob), *others.items()] if logprob is not None else []
    return Token(
        text,
        text.encode(),
        logprob,
        tuple(margins.Likely(one, one.encode(), value) for one, value in likely if value is not None),
    )


def run(text: str, at: Token, *, ended: bool = True, why: str = "") -> Run:
    """A run that says `text`, word by word, with `at` as its third token."""
    words = [token(word) for word in text.replace(" ", " |").split("|")]
    return Run(text, [*words[:2], at, *words[3:]], ended, why)


def judged(first: Token, second: Token, within: float = 0.25, **more: str) -> Divergence:
    runs = run(ANSWERS[0], first), run(ANSWERS[1], second, why=more.get("why", ""))
    return judge(runs, ANSWERS, NAMES, within)


# The verdict


def test_a_tie_is_one_to_both_engines() -> None:
    found = judged(token("Paris ", -0.6, **{"the ": -0.7}), token("the ", -0.5, **{"Paris ": -0.75}))
    assert (found.verdict, found.at, found.why) == ("tie", 3, "")
    assert [side.margin for side in found.sides] == [0.1, -0.25]
    assert [side.token for side in found.sides] == ["“Paris␣”", "“the␣”"]
    assert found.sides[0].likely == (("“Paris␣”", -0.6), ("“the␣”", -0.7))


@pytest.mark.parametrize(("first", "second"), [(-0.9, -0.6), (-0.6, -0.9), (-0.9, -0.9)])
def test_it_is_no_tie_when_one_margin_is_wider(first: float, second: float) -> None:
    found = judged(token("Paris ", -0.5, **{"the ": first}), token("the ", -0.5, **{"Paris ": second}))
    assert found.verdict == "no tie"


def test_how_near_a_tie_is_can_be_set() -> None:
    pair = token("Paris ", -0.5, **{"the ": -0.9}), token("the ", -0.5, **{"Paris ": -0.9})
    assert judged(*pair).verdict == "no tie"
    assert judged(*pair, within=0.5).verdict == "tie"
    assert known(judged(*pair).kept(), 0.5).verdict == "tie"
    assert known(judged(*pair).kept()) == judged(*pair)


def test_it_is_one_sided_when_the_other_token_is_outside_the_likeliest() -> None:
    found = judged(token("Paris ", -0.5, **{"Rome ": -3.0}), token("the ", -0.5, **{"Paris ": -0.6}))
    assert found.verdict == "one-sided"
    assert [side.margin for side in found.sides] == [None, -0.1]
    assert found.why == "“the␣” is not among the 2 likeliest tokens of vLLM, so over 2.50 nats below."


def test_it_is_one_sided_when_one_engine_gives_no_log_probabilities() -> None:
    found = judged(
        token("Paris ", -0.5, **{"the ": -0.6}), token("the ", None), why="transformers gives none."
    )
    assert (found.verdict, found.why) == ("one-sided", "transformers gives none.")
    assert found.sides[0].margin == 0.1


def test_it_is_na_when_neither_has_a_margin() -> None:
    found = judged(token("Paris ", -0.5, **{"x": -3.0}), token("the ", -0.5, **{"y": -3.0}))
    assert found.verdict == "n/a"
    assert found.at == 3
    assert "vLLM" in found.why and "llama.cpp" in found.why


def test_a_run_that_went_another_way_says_nothing() -> None:
    fine = run(ANSWERS[1], token("the "))
    for other in (run("It is Rome now", token("Rome ")), run("It is", token("")), Run("", [], True)):
        found = judge((other, fine), ANSWERS, NAMES)
        assert (found.verdict, found.at) == ("n/a", None)
        assert found.why == "A second run of vLLM did not reproduce its answer."
    found = judge((run(ANSWERS[0], token("Paris ")), other), ANSWERS, NAMES)
    assert found.why == "A second run of llama.cpp did not reproduce its answer."


def test_an_answer_that_ended_parts_by_its_end() -> None:
    answers = ("It is", "It is Paris")
    told = Run("It is", [token("It "), token("is"), token("<end>", -0.2, **{" Paris": -0.3})], True)
    more = Run("It is Paris", [token("It "), token("is"), token(" Paris", -0.2, **{"<end>": -0.4})], True)
    assert judge((told, more), answers, NAMES).verdict == "tie"
    silent = Run("It is", told.tokens[:2], True)
    found = judge((silent, more), answers, NAMES)
    assert (found.verdict, found.at, found.sides[0].token) == ("one-sided", 3, "its end")
    assert [side.margin for side in found.sides] == [None, -0.2]
    assert found.why == "vLLM does not tell how likely its end was."
    sure = Run(more.text, [*more.tokens[:2], token(" Paris", -0.2, **{" Rome": -0.4})], True)
    found = judge((silent, sure), answers, NAMES)
    assert (found.verdict, found.at) == ("n/a", 3)
    assert "its end is not among the 2 likeliest tokens of llama.cpp" in found.why
    cut = Run("It is", told.tokens[:2], False)
    assert "did not reproduce" in judge((cut, more), answers, NAMES).why


@pytest.mark.parametrize(
    ("here", "there"), [("", ""), ("", "<|im_end|>"), ("<|im_end|>", ""), ("</s>", "<eos>")]
)
def test_the_token_of_an_end_is_known_whatever_engines_call_it(here: str, there: str) -> None:
    answers = ("It is", "It is Paris")
    ended = Run("It is", [token("It "), token("is"), token(here, -0.2, **{" Paris": -0.3})], True)
    went_on = Run("It is Paris", [token("It "), token("is"), token(" Paris", -0.2, **{there: -0.4})], True)
    found = judge((ended, went_on), answers, NAMES)
    assert (found.verdict, [side.margin for side in found.sides]) == ("tie", [0.1, -0.2])
    assert [side.token for side in found.sides] == ["its end", "“␣Paris”"]
    two = token(" Paris", -0.2, **{"<|im_end|>": -0.4, "<|endoftext|>": -2.0})
    unsure = judge((ended, Run("It is Paris", [*went_on.tokens[:2], two], True)), answers, NAMES)
    assert unsure.sides[1].margin == (-0.2 if here == "<|im_end|>" else None)


def test_a_part_of_a_character_is_not_taken_for_another_s() -> None:
    answers = ("a\U0001f469", "a\U0001f467")
    runs = tuple(Run(text, [token("a"), token("\ufffd"), token("\ufffd")], True) for text in answers)
    assert judge((runs[0], runs[1]), answers, NAMES).verdict == "n/a"
    exact = [Token("\ufffd", raw, -0.5) for raw in (b"\xf0\x9f", b"\xf0\x9e")]
    assert exact[0].same(exact[1])


def test_log_probabilities_are_read_and_what_is_none_is_left_out() -> None:
    good = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1}]}
    bad: list[Any] = [
        {"token": 1},
        {"token": "x", "logprob": math.nan},
        None,
        {"token": "y", "logprob": True},
    ]
    found = margins.tokens({"content": [good, *bad]})
    assert [(one.text, one.raw, one.logprob) for one in found] == [("a", b"a", -0.5)]
    assert [(one.text, one.raw) for one in found[0].others] == [("b", b"b")]
    assert margins.tokens(None) == margins.tokens({"content": "x"}) == []


# Greedy


def test_only_answers_of_the_likeliest_tokens_are_measured() -> None:
    def look(**sampled: Any) -> Look:
        return Look("SGLang", sampled={name: Value(value, looks.ASKED) for name, value in sampled.items()})

    assert looks.not_greedy(look(temperature=0)) == ""
    assert looks.not_greedy(look(temperature=0.7, top_k=1)) == ""
    assert looks.not_greedy(look(temperature=0.7)) == (
        "SGLang sampled at temperature 0.7: answers part by chance."
    )
    assert "not known" in looks.not_greedy(look(top_p=0.5))


# Engines asked once more


@pytest.fixture(autouse=True)
def hung_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server each call of a view has a loop of its own, which ends with its connections."""

    def to_sync(call: Callable[..., Any]) -> Callable[..., Any]:
        async def closing(*args: Any) -> Any:
            try:
                return await call(*args)
            finally:
                await engine_client.close()

        return async_to_sync(closing)

    monkeypatch.setattr(differences, "async_to_sync", to_sync)


Answered = Callable[..., Turn]


@pytest.fixture
def answered(
    transactional_db: None, team: Team, user: User, fake_engine: Callable[..., RunningFake]
) -> Answered:
    """A turn answered by fake engines of several variants."""

    def made(
        text: str,
        *texts: str,
        directives: str = "",
        ids: tuple[Any, ...] = ([1, 2], [1, 2]),
        rendered: str = "prompt",
        **more: Any,
    ) -> Turn:
        prompt = f"{directives}[[text={text}]]"
        rows = [chats.deployment(team, f"fake {place}") for place in range(len(texts))]
        chat = chats.conversation(team, *rows, created_by=user)
        turn = Turn.objects.create(conversation=chat, text=prompt, client_id="t1")
        for place, (column, row) in enumerate(zip(chat.columns.all(), rows, strict=True)):
            replica = chats.ready(row, fake_engine(key="k", variant=place, token_delay_ms=0))
            Generation.objects.create(
                turn=turn,
                column=column,
                replica=replica,
                state=Generation.State.COMPLETE,
                text=texts[place],
                finish_reason="stop",
                request={
                    "model": "fake",
                    "messages": [{"role": "user", "content": prompt}],
                    "temperature": 0,
                    "stream": True,
                }
                | more.get("request", {}),
                effective={"rendered": rendered, "token_ids": ids[place], "by": "engine"},
            )
        return turn

    return made


def client(person: User) -> Client:
    page = Client(headers={"HX-Request": "true"})
    page.force_login(person)
    return page


def test_without_scripts_it_leads_to_the_page_and_says_nothing_of_the_form(
    answered: Answered, team: Team, user: User
) -> None:
    turn = answered("{a|b}", "a", "b")
    page = Client()
    page.force_login(user)
    sent = page.post(reverse("turn-margin", args=[turn.pk]), {"by": "token", "in_team": str(team.pk)})
    assert sent["Location"] == reverse("turn-difference", args=[turn.pk]) + "?by=token"


def measured(turn: Turn, person: User) -> Divergence:
    """The verdict once the button was pressed."""
    answer = client(person).post(reverse("turn-margin", args=[turn.pk]))
    assert answer.status_code == 200
    first, second = beside.answers(turn)
    found = divergence.kept(first.generation, second.generation)
    assert found is not None
    shown = answer.content.decode()
    assert f'data-verdict="{found.verdict}"' in shown or found.why in shown.replace("&#x27;", "'")
    return found


PARIS = "It is {Paris|the city} today"
BOTH = ("It is Paris today", "It is the city today")


def test_engines_asked_again_tell_a_tie(answered: Answered, user: User) -> None:
    turn = answered(PARIS, *BOTH, directives="[[gap=0.2]]")
    found = measured(turn, user)
    assert (found.verdict, found.at) == ("tie", 3)
    assert [side.margin for side in found.sides] == [0.2, -0.2]
    assert [side.token for side in found.sides] == ["“␣Paris”", "“␣the”"]
    shown = beside.answers(turn)
    assert beside.lines([one.generation for one in shown]) == [
        "1\u20132 part at token 3 (“␣Paris” / “␣the”, a tie in both)"
    ]


def test_engines_asked_again_tell_no_tie_when_one_is_sure(answered: Answered, user: User) -> None:
    found = measured(answered(PARIS, *BOTH, directives="[[gap=0.2,3]]"), user)
    assert found.verdict == "no tie"
    assert [side.margin for side in found.sides] == [0.2, -3]


def test_a_token_no_engine_thought_of_has_no_margin(answered: Answered, user: User) -> None:
    found = measured(answered(PARIS, *BOTH, directives="[[gap=0.2,none]]"), user)
    assert found.verdict == "one-sided"
    assert "“␣Paris” is not among" in found.why


def test_a_second_run_that_says_something_else_is_told(answered: Answered, user: User) -> None:
    found = measured(answered(PARIS, *BOTH, directives="[[drift]]"), user)
    assert (found.verdict, found.at) == ("n/a", None)
    assert found.why == "A second run of Fake (column 1) did not reproduce its answer."


def test_an_engine_that_sends_none_is_told(answered: Answered, user: User) -> None:
    found = measured(answered(PARIS, *BOTH, directives="[[mute]]"), user)
    assert found.verdict == "n/a"


def test_an_engine_that_fails_is_told(answered: Answered, user: User) -> None:
    found = measured(answered(PARIS, *BOTH, directives="[[error=500]]"), user)
    assert "did not answer again" in found.why


def test_an_engine_that_ignores_them_is_one_side_without(
    answered: Answered, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers does: its tokens are those its tokenizer makes of the answer."""
    turn = answered(PARIS, *BOTH, directives="[[gap=0.2]]")
    second = turn.generations.last()
    assert second is not None
    monkeypatch.setattr(divergence, "_mute", lambda row: "Fake gives none." if row.pk == second.pk else "")
    found = measured(turn, user)
    assert (found.verdict, found.at, found.why) == ("one-sided", 3, "Fake gives none.")
    assert found.sides[0].margin == 0.2


def test_sampled_answers_part_by_chance(answered: Answered, user: User) -> None:
    found = measured(answered(PARIS, *BOTH, request={"temperature": 0.7}), user)
    assert "temperature 0.7: answers part by chance" in found.why


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (([1, 2], [1, 3]), "The same prompt is other tokens in each"),
        (([1, 2], None), "The tokens of its prompt are not known for Fake (column 2)."),
    ],
)
def test_without_the_same_prompt_tokens_there_is_no_tie(
    answered: Answered, user: User, ids: tuple[Any, ...], why: str
) -> None:
    found = measured(answered(PARIS, *BOTH, ids=ids), user)
    assert (found.verdict, found.at) == ("n/a", None)
    assert why in found.why


def test_other_prompts_are_named_by_token(answered: Answered, user: User) -> None:
    turn = answered(PARIS, *BOTH, ids=([0, 1, 2], [1, 2]))
    Generation.objects.filter(pk=turn.generations.first().pk).update(  # type: ignore[union-attr]
        effective={"rendered": "<s>prompt", "token_ids": [0, 1, 2], "by": "engine"}
    )
    assert "put token 0 before the prompt" in measured(turn, user).why


def test_it_asks_nobody_who_does_not_run(answered: Answered, user: User) -> None:
    turn = answered(PARIS, *BOTH)
    turn.generations.last().replica.deployment.replicas.update(state="stopped")  # type: ignore[union-attr]
    assert "does not run now" in measured(turn, user).why


# The page


def test_the_difference_is_shown_without_asking_an_engine(answered: Answered, user: User) -> None:
    turn = answered("<b>{x|y}</b>", "<b>x</b>", "<b>y</b>")
    turn.generations.first().replica.deployment.replicas.update(port=1)  # type: ignore[union-attr]
    address = reverse("turn-difference", args=[turn.pk])
    shown = client(user).get(address).content.decode()
    assert "<html" not in shown
    assert "&lt;b&gt;<del>x</del>&lt;/b&gt;" in shown and "<ins>y</ins>" in shown
    assert "<b>x" not in shown
    inline = client(user).get(address, {"view": "inline"}).content.decode()
    assert "&lt;b&gt;<del>x</del><ins>y</ins>&lt;/b&gt;" in inline
    whole = client(user).get(address, headers={"HX-Request": "false"}).content.decode()
    assert "<html" in whole and "<del>x</del>" in whole


def test_it_compares_by_token_as_the_engines_cut(answered: Answered, user: User) -> None:
    turn = answered("{red|rod} end", "red end", "rod end")
    address = reverse("turn-difference", args=[turn.pk])
    shown = client(user).get(address, {"by": "token"}).content.decode()
    assert "<del>red</del> end" in shown
    assert "Shown by word" not in shown


def test_tokens_that_nobody_tells_are_na(
    answered: Answered, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def untold(*_: Any) -> None:
        return None

    monkeypatch.setattr(Fake, "pieces", untold)
    turn = answered("x", "red", "rod")
    shown = client(user).get(reverse("turn-difference", args=[turn.pk]), {"by": "token"}).content.decode()
    assert "n/a by token: Fake does not tell its tokens now" in shown


def test_other_tokenizers_are_told_with_the_first_character(
    answered: Answered, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def numbered(self: Fake, ask: Any, served_name: str, text: str) -> list[tuple[int, bytes]]:
        counted = next(calls)
        return [(counted + at, letter.encode()) for at, letter in enumerate(text)]

    calls = iter(range(0, 1000, 100))
    monkeypatch.setattr(Fake, "pieces", numbered)
    turn = answered("x", "red", "rod")
    shown = client(user).get(reverse("turn-difference", args=[turn.pk]), {"by": "token"}).content.decode()
    assert "Their tokenizers differ" in shown
    assert "The first character that differs is 2." in shown


def test_columns_are_chosen_and_wrong_ones_lead_to_the_first(answered: Answered, user: User) -> None:
    turn = answered("{a|b|c}", "a", "b", "c", ids=([1], [1], [1]))
    columns = [one.column for one in beside.answers(turn)]
    address = reverse("turn-difference", args=[turn.pk])

    def sides(**query: Any) -> tuple[str, str]:
        shown = client(user).get(address, query).content.decode()
        return shown.split("<del>")[1][0], shown.split("<ins>")[1][0]

    assert sides() == ("a", "b")
    assert sides(a=columns[2], b=columns[0]) == ("c", "a")
    assert sides(a=columns[1], b=columns[1]) == ("b", "a")
    assert sides(a="x", b=columns[0]) == ("b", "a")
    assert sides(a="9" * 30, b=-1, by="nonsense", view="nonsense") == ("a", "b")
    wrong = client(user).get(address, {"within": "wide"}).content.decode()
    assert "A tie takes 0 to 20 nats" in wrong and 'value="wide"' in wrong


def test_the_answer_that_is_shown_is_compared_not_only_the_newest(answered: Answered, user: User) -> None:
    turn = answered("{a|b}", "a", "b")
    first = turn.generations.first()
    assert first is not None
    Generation.objects.create(
        turn=turn, column=first.column, text="z", state="complete", request=first.request
    )
    assert [one.generation.text for one in beside.answers(turn)] == ["z", "b"]
    assert [one.generation.text for one in beside.answers(turn, {first.pk})] == ["a", "b"]


def test_one_answer_or_one_that_streams_has_no_difference_yet(answered: Answered, user: User) -> None:
    turn = answered("{a|b}", "a", "b")
    turn.generations.filter(text="b").update(state="streaming")
    address = reverse("turn-difference", args=[turn.pk])
    assert "still being written" in client(user).get(address).content.decode()
    turn.generations.filter(text="b").delete()
    assert "fewer than two columns" in client(user).get(address).content.decode()


def test_what_is_blind_stays_hidden(answered: Answered, user: User) -> None:
    turn = answered("{a|b}", "a", "b", directives="[[gap=0.1]]")
    Turn.objects.filter(pk=turn.pk).update(inputs={"blind": True})
    Conversation.objects.update(blind=True)
    turn.refresh_from_db()
    assert votes.hidden(Conversation.objects.get(), turn, user)
    for name in ("turn-difference", "turn-requests"):
        shown = client(user).get(reverse(name, args=[turn.pk])).content.decode()
        assert "Hidden while the comparison is blind" in shown
        assert "<del>" not in shown and "Fake" not in shown
    client(user).post(reverse("turn-margin", args=[turn.pk]))
    client(user).post(reverse("turn-similarity", args=[turn.pk]))
    assert all("divergence" not in row.effective for row in turn.generations.all())


def test_strangers_find_nothing_and_viewers_look_but_do_not_measure(
    answered: Answered, team: Team, stranger: User
) -> None:
    turn = answered("{a|b}", "a", "b")
    viewer = User.objects.create_user(username="vera")
    Membership.objects.create(user=viewer, team=team, role=Membership.Role.VIEWER)
    for name in ("turn-difference", "turn-requests"):
        address = reverse(name, args=[turn.pk])
        assert client(stranger).get(address).status_code == 404
        assert client(viewer).get(address).status_code == 200
        assert Client().get(address).status_code == 302
    shown = client(viewer).get(reverse("turn-difference", args=[turn.pk])).content.decode()
    assert "Measure" not in shown and "Compare meaning" not in shown
    for name in ("turn-margin", "turn-similarity"):
        address = reverse(name, args=[turn.pk])
        assert client(stranger).post(address).status_code == 404
        assert client(viewer).post(address).status_code == 403
        assert client(viewer).get(address).status_code == 405
    assert all("divergence" not in row.effective for row in turn.generations.all())


def test_a_conversation_shared_to_be_read_is_not_measured_by_others(answered: Answered, team: Team) -> None:
    turn = answered("{a|b}", "a", "b")
    Conversation.objects.update(sharing=Conversation.Sharing.VIEW)
    member = User.objects.create_user(username="max")
    Membership.objects.create(user=member, team=team, role=Membership.Role.MEMBER)
    shown = client(member).get(reverse("turn-difference", args=[turn.pk])).content.decode()
    assert "<del>a</del>" in shown and "Measure" not in shown
    assert client(member).post(reverse("turn-margin", args=[turn.pk])).status_code == 403


# Meaning


def test_meaning_is_compared_by_an_embedding_model_that_runs(
    answered: Answered, team: Team, user: User, fake_engine: Callable[..., RunningFake]
) -> None:
    turn = answered("{a|b}", "the cat sat", "the cat sat down")
    address = reverse("turn-similarity", args=[turn.pk])
    assert "No embedding model runs" in client(user).post(address).content.decode()
    model = Model.objects.create(team=team, source="local:minilm", name="MiniLM", task="embedding")
    row = chats.deployment(team, "embeds")
    row.model = model
    row.save()
    chats.ready(row, fake_engine(key="k"))
    shown = client(user).post(address).content.decode()
    assert "by MiniLM (embeds)" in shown and "0.8" in shown
    turn.generations.update(text="")
    assert "empty answer" in client(user).post(address).content.decode()


def test_an_embedding_model_that_fails_says_why(
    answered: Answered, team: Team, user: User, fake_engine: Callable[..., RunningFake]
) -> None:
    turn = answered("x", "[[error=500]] one", "two")
    model = Model.objects.create(team=team, source="local:minilm", name="MiniLM", task="embedding")
    row = chats.deployment(team, "embeds")
    row.model = model
    row.save()
    chats.ready(row, fake_engine(key="k"))
    shown = client(user).post(reverse("turn-similarity", args=[turn.pk])).content.decode()
    assert "MiniLM (embeds) did not embed them" in shown
