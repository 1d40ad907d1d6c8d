"""Public links: who makes them, what they show and never show, and how they end."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from playground import links, votes
from playground.models import (
    AuditEntry,
    Batch,
    Conversation,
    Dataset,
    DatasetRow,
    DatasetVersion,
    Generation,
    Membership,
    Node,
    Prompt,
    Replica,
    ShareLink,
    Team,
    Turn,
    User,
)
from tests import chats

pytestmark = pytest.mark.django_db

SECRET = "node7.internal 10.1.2.3:8000 /srv/models/tiny sk-canary"


@pytest.fixture
def chat(team: Team, user: User) -> Conversation:
    rows = [chats.deployment(team, name) for name in ("first-secretname", "second-secretname")]
    more = {"system_prompt": "Be brief.", "parameters": {"temperature": 0.25}}
    return chats.conversation(team, *rows, created_by=user, title="Ships <b>", **more)


def said(chat: Conversation, text: str = "Which ship?", **more: Any) -> Turn:
    turn = chat.turns.create(text=text, client_id=f"c{chat.turns.count()}", inputs=more.pop("inputs", {}))
    state = more.pop("state", "complete")
    for column in chat.columns.filter(closed=False):
        Generation.objects.create(
            turn=turn,
            column=column,
            state=state,
            text=f"The {['ark', 'brig'][column.position]} <script>x</script>",
            error=SECRET,
            request={"model": "m", "api_base": SECRET},
            timings={"ttft": 123.0, "e2e": 456.0, "chunks": 2},
            usage={"completion_tokens": 7},
            **more,
        )
    return turn


def link(thing: links.Thing, user: User, days: int = 7, **more: Any) -> ShareLink:
    return links.make(thing, user, timezone.now() + timedelta(days=days), **more)


def read(one: ShareLink, route: str = "shared", *args: Any, **query: str) -> Any:
    """As anybody gets it: no cookies."""
    return Client().get(reverse(route, args=[links.token(one), *args]), query)


def body(response: Any) -> str:
    return str(response.content.decode())


def member(team: Team, name: str, role: str = Membership.Role.MEMBER) -> User:
    person = User.objects.create_user(username=name)
    Membership.objects.create(user=person, team=team, role=role)
    return person


# What shows


def test_whoever_has_the_link_reads_a_comparison(chat: Conversation, user: User) -> None:
    said(chat)
    page = body(read(link(chat, user)))
    shown = [
        "Ships &lt;b&gt;",
        "Which ship?",
        "The ark &lt;script&gt;",
        "The brig",
        "Be brief.",
        "temperature",
    ]
    for text in [*shown, "0.25", "tiny", "TTFT 123 ms", "7 tokens"]:
        assert text in page, text
    assert "<script>x" not in page


def test_a_prompt_of_the_library_shows_filled_in_as_it_was_sent(
    chat: Conversation, prompt: Prompt, user: User
) -> None:
    version = prompt.versions.get(number=2)
    more = {"prompt_version": version, "prompt_values": {"who": "Ada"}, "system_prompt": "New {{who}}"}
    Conversation.objects.filter(pk=chat.pk).update(**more)
    one = link(chat, user)
    assert "New Ada" in body(read(one)) and "{{who}}" not in body(read(one))
    Conversation.objects.filter(pk=chat.pk).update(system_prompt="New {{unknown}}")
    assert "New {{unknown}}" in body(read(one))


@pytest.mark.parametrize("state", ["complete", "failed", "interrupted", "stopped", "streaming"])
def test_nothing_else_of_the_team_shows(chat: Conversation, user: User, state: str) -> None:
    other = chats.conversation(chat.team, title="Another one")
    said(chat, state=state)
    one = link(chat, user)
    for page in (body(read(one)), body(read(one, "shared-live"))):
        for secret in [*SECRET.split(), "secretname", user.username, chat.team.name, other.title]:
            assert secret not in page, secret
        assert not re.search(r'(href|src|action)="/(?!shared/|static/)', page)
        assert "csrf" not in page and "<nav" not in page and 'data-socket="' not in page


def test_its_branches_are_walked_and_each_shows_its_own(chat: Conversation, user: User) -> None:
    first, second = said(chat, "Which ship?"), said(chat, "Which boat?")
    again = Generation.objects.create(
        turn=second, column=chat.columns.get(position=0), state="complete", text="No boat at all"
    )
    one = link(chat, user)
    page = body(read(one))
    assert "Which boat?" in page and "Which ship?" not in page and "No boat at all" in page
    before = f"turn={first.pk}"
    assert f'?{before}" rel="nofollow" aria-label="Message before"' in page
    old = body(read(one, turn=str(first.pk)))
    assert "Which ship?" in old and "Which boat?" not in old
    assert re.search(rf'data-url="[^"]+/live/\?{before}"', old)
    assert "Which ship?" in body(read(one, "shared-live", turn=str(first.pk)))
    key = again.pk - 2
    assert f"?turn={second.pk}&amp;answer={key}" in page and "The ark" not in page
    assert "The ark" in body(read(one, turn=str(second.pk), answer=str(key)))
    elsewhere = said(chats.conversation(chat.team, title="Other"), "Not yours")
    for wrong in ({"turn": str(elsewhere.pk)}, {"turn": "9" * 30}, {"turn": str(first.pk), "answer": "7"}):
        assert "Which boat?" in body(read(one, **wrong)) and "Not yours" not in body(read(one, **wrong))


def test_costs_and_sums_show_and_whose_machine_it_was_does_not(chat: Conversation, user: User) -> None:
    turn = said(chat)
    node = Node.objects.create(name="node7")
    for answer in turn.generations.all():
        of = Replica.objects.create(deployment=answer.column.deployment, node=node, state="ready")
        timings = {"ttft": 123.0, "e2e": 456.0, "chunks": 2, "queue": 1.5, "cost": 0.0125}
        Generation.objects.filter(pk=answer.pk).update(timings=timings, replica=of, ended_at=timezone.now())
    page = body(read(link(chat, user)))
    assert page.count("$0.0125") == 4  # under both answers, and in both sums
    assert "Each column over the conversation" in page and "queue 2 ms" in page
    assert "Timed together: columns 1 and 2 share hardware." in page and "node7" not in page


def test_blind_answers_stay_blind(chat: Conversation, user: User) -> None:
    votes.set_blind(chat, True, user)
    turn = said(chat, inputs={"blind": True})
    one = link(chat, user)
    page = body(read(one))
    assert "who answered is hidden" in page and "TTFT" not in page and "Each column over" not in page
    assert "The ark" in page and "data-generation" not in page
    ballot = votes.ballot(turn, user)
    votes.cast(turn, user, "tie", ballot.mark)
    assert "who answered is hidden" in body(read(one))
    votes.set_blind(chat, False, user)
    assert "TTFT" in body(read(one))


def test_blind_answers_wait_for_each_other(chat: Conversation, user: User) -> None:
    votes.set_blind(chat, True, user)
    turn = said(chat, inputs={"blind": True})
    turn.generations.filter(column__position=0).update(state="streaming")
    page = body(read(link(chat, user)))
    assert "answers show when all are complete" in page and "The brig" not in page


def test_it_is_live_while_answers_stream(chat: Conversation, user: User) -> None:
    turn = said(chat, state="streaming")
    one = link(chat, user)
    page = body(read(one))
    seen = re.search(r'data-seen="(\w+)"', page)
    assert seen and 'data-every="1000"' in page
    assert read(one, "shared-live", seen=seen[1]).status_code == 204
    turn.generations.filter(column__position=0).update(text="The ark is long")
    more = read(one, "shared-live", seen=seen[1])
    assert more.status_code == 200 and "The ark is long" in body(more)
    turn.generations.update(state="complete", ended_at=timezone.now())
    assert 'data-every="4000"' in body(read(one, "shared-live", seen=seen[1]))


def test_pictures_of_the_conversation_and_no_other_show(chat: Conversation, user: User) -> None:
    facts: dict[str, Any] = {"kind": "png", "width": 1, "height": 1, "size_bytes": 4, "data": b"\x89PNG"}
    picture = chat.images.create(sent=True, **facts)
    waiting = chat.images.create(sent=False, **facts)
    foreign = chats.conversation(chat.team).images.create(sent=True, **facts)
    said(chat, inputs={"images": [picture.pk]})
    one = link(chat, user)
    assert f"/pictures/{picture.pk}/" in body(read(one))
    answer = read(one, "shared-picture", picture.pk)
    assert (answer.status_code, answer.content) == (200, b"\x89PNG")
    assert answer["Content-Security-Policy"] == "default-src 'none'; sandbox"
    for other in (waiting, foreign):
        assert read(one, "shared-picture", other.pk).status_code == 404


def test_no_search_engine_no_cache_and_no_other_site_gets_it(chat: Conversation, user: User) -> None:
    one = link(chat, user)
    for answer in (read(one), read(one, "shared-live"), Client().get("/shared/1-x/")):
        assert answer["X-Robots-Tag"] == "noindex, nofollow"
        assert "no-store" in answer["Cache-Control"]
        assert answer["Referrer-Policy"] == "no-referrer"
    assert '<meta name="robots" content="noindex, nofollow">' in body(read(one))


def test_nobody_can_write_by_it(chat: Conversation, user: User) -> None:
    one = link(chat, user)
    strict = Client(enforce_csrf_checks=True)
    for route in ("shared", "shared-live"):
        for method in ("post", "put", "delete", "patch"):
            answer = getattr(strict, method)(reverse(route, args=[links.token(one)]))
            assert answer.status_code in (403, 405)
    assert strict.get(reverse("conversation", args=[chat.pk])).status_code == 302


@pytest.fixture
def batch(team: Team, user: User) -> Batch:
    dataset = Dataset.objects.create(team=team, name="Secret dataset")
    version = DatasetVersion.objects.create(
        dataset=dataset, number=1, kind="prompts", row_count=60, complete=True
    )
    row = Batch.objects.create(
        team=team,
        name="Nightly",
        version=version,
        created_by=user,
        problem=SECRET,
        parameters={"max_tokens": 9},
    )
    column = row.columns.create(deployment=chats.deployment(team, "secretname"), problem=SECRET)
    for number in range(1, 61):
        asked = DatasetRow.objects.create(
            version=version,
            number=number,
            line=number,
            custom_id=f"r{number}",
            body={"prompt": f"Ask {number}."},
        )
        ok = number != 2
        column.items.create(row=asked, number=number, state="done" if ok else "failed")
        told: dict[str, Any] = {"text": f"Answer {number}!"} if ok else {"error": SECRET, "error_code": "x"}
        column.results.create(
            number=number,
            attempt=1,
            ok=ok,
            usage={"completion_tokens": 3},
            timings={"ttft": 50.0, "e2e": 90.0},
            **told,
        )
    return row


def test_a_batch_shows_its_rows_page_by_page_its_totals_and_no_more(batch: Batch, user: User) -> None:
    one = link(batch, user)
    first = body(read(one))
    assert "Nightly" in first and "Answer 1!" in first and "Answer 51!" not in first and "failed" in first
    assert "max_tokens 9" in first and "p99" in first
    after = re.search(r"\?after=(\d+)", first)
    assert after
    second = body(read(one, after=after[1]))
    assert "Answer 51!" in second and "Answer 1!" not in second
    whole = body(read(one, "shared-row", 51))
    assert "Ask 51." in whole and "Answer 51!" in whole
    failed = body(read(one, "shared-row", 2))
    assert "It failed." in failed
    for page in (first, second, whole, failed):
        for secret in [*SECRET.split(), "secretname", "Secret dataset", user.username]:
            assert secret not in page, secret
    for number in (0, 61, 10**17):
        assert read(one, "shared-row", number).status_code == 404


def test_a_batch_shows_its_scores(batch: Batch, user: User) -> None:
    batch.scorers = [{"kind": "exact", "against": "fixed", "fixed": "Answer 1!"}]
    batch.save()
    column = batch.columns.get()
    for number in range(1, 61):
        column.scores.create(number=number, scorer=0, value=float(number == 1))
    page = body(read(link(batch, user)))
    assert "Scores" in page and "Answer 1!" in page


@pytest.fixture
def prompt(team: Team, user: User) -> Prompt:
    row = Prompt.objects.create(team=team, name="Greeting", created_by=user, head=2)
    variables = [{"name": "who", "type": "text", "default": "world", "description": "Whom to greet"}]
    for number, text in ((1, "Old {{who}}"), (2, "New {{who}}")):
        row.versions.create(
            number=number,
            messages=[{"role": "system", "content": text}],
            variables=variables,
            parameters={"temperature": 0.5},
            note="Secret note",
            created_by=user,
        )
    return row


def test_a_prompt_shows_one_version_and_not_its_history(prompt: Prompt, user: User) -> None:
    newest, first = link(prompt, user), link(prompt, user, version=1)
    page = body(read(newest))
    for text in ("Greeting", "New {{who}}", "Version 2, the newest", "world", "Whom to greet", "temperature"):
        assert text in page, text
    for text in ("Old {{who}}", "Secret note", user.username):
        assert text not in page
    assert "Old {{who}}" in body(read(first)) and "New {{who}}" not in body(read(first))
    prompt.versions.create(number=3, messages=[{"role": "user", "content": "Third"}])
    Prompt.objects.filter(pk=prompt.pk).update(head=3)
    assert "Third" in body(read(newest)) and "Third" not in body(read(first))
    with pytest.raises(links.LinkRefused, match="no such version"):
        link(prompt, user, version=9)


# How it ends


def test_what_holds_no_more_is_not_found(chat: Conversation, user: User) -> None:
    one = link(chat, user)
    assert read(one).status_code == 200
    links.revoke(one, user)
    revoked = read(one)
    expired = link(chat, user)
    ShareLink.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    deleted_thing = chats.conversation(chat.team, created_by=user)
    deleted = link(deleted_thing, user)
    deleted_thing.delete()
    answers = [
        revoked,
        read(expired),
        read(deleted),
        read(expired, "shared-live"),
        Client().get("/shared/x/"),
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({body(answer).partition("<body")[2] for answer in answers}) == 1
    assert "has ended, was taken back, or never was" in body(revoked)


@pytest.mark.parametrize(
    "forge",
    [
        lambda token: token[:-1],
        lambda token: token + "A",
        lambda token: token.replace("-", ""),
        lambda token: "9" + token,
        lambda token: token.partition("-")[0] + "-",
        lambda token: "٣" + token,
        lambda token: token[:-1] + "é",
        lambda token: "9" * 400 + "-x",
        lambda token: "\0",
    ],
)
def test_a_token_is_not_guessed(chat: Conversation, user: User, forge: Any) -> None:
    token = links.token(link(chat, user))
    with pytest.raises(links.Gone):
        links.open_by(forge(token))


def test_a_token_of_one_link_does_not_open_another(chat: Conversation, user: User) -> None:
    first, second = link(chat, user), link(chat, user)
    mac = links.token(first).partition("-")[2]
    with pytest.raises(links.Gone):
        links.open_by(f"{second.pk}-{mac}")


def test_links_made_with_an_old_secret_key_still_open(chat: Conversation, user: User, settings: Any) -> None:
    one = link(chat, user)
    old = links.token(one)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    assert links.open_by(old).thing == chat
    assert links.token(one) != old and links.open_by(links.token(one)).thing == chat
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(links.Gone):
        links.open_by(old)


def test_a_thing_that_went_to_another_team_is_not_shown(
    chat: Conversation, user: User, stranger: User
) -> None:
    one = link(chat, user)
    Conversation.objects.filter(pk=chat.pk).update(team=stranger.memberships.get().team)
    assert read(one).status_code == 404


def test_openings_are_counted_and_looking_again_is_none(chat: Conversation, user: User) -> None:
    one = link(chat, user)
    read(one)
    read(one)
    read(one, "shared-live")
    one.refresh_from_db()
    assert one.opened == 2


# Who makes them


def post(person: User, route: str, pk: int, **data: str) -> Any:
    client = Client()
    client.force_login(person)
    return client.post(reverse(route, args=[pk]), data, headers={"HX-Request": "true"})


def test_the_owner_makes_lists_and_takes_back(chat: Conversation, team: Team) -> None:
    owner = member(team, "olga")
    Conversation.objects.filter(pk=chat.pk).update(created_by=owner)
    made = post(owner, "conversation-links", chat.pk, days="30")
    one = ShareLink.objects.get()
    assert made.status_code == 200 and links.token(one) in body(made)
    assert timedelta(days=29) < one.expires_at - timezone.now() <= timedelta(days=30)
    client = Client()
    client.force_login(owner)
    assert links.token(one) in body(client.get(reverse("conversation-share", args=[chat.pk])))
    taken = post(owner, "share-link-revoke", one.pk)
    assert links.token(one) not in body(taken)
    entries = list(AuditEntry.objects.order_by("pk").values_list("action", "object", "name"))
    assert entries == [
        ("make public link", f"conversation:{chat.pk}", "Ships <b>"),
        ("take back public link", f"conversation:{chat.pk}", "Ships <b>"),
    ]


def test_others_neither_make_nor_take_back(
    chat: Conversation, team: Team, user: User, stranger: User
) -> None:
    one = link(chat, user)
    before = AuditEntry.objects.count()
    bob, vera = member(team, "bob"), member(team, "vera", Membership.Role.VIEWER)
    for person, status in ((bob, 403), (vera, 403), (stranger, 404)):
        assert post(person, "conversation-links", chat.pk, days="7").status_code == status
        assert post(person, "share-link-revoke", one.pk).status_code == status
    one.refresh_from_db()
    assert one.revoked_at is None and ShareLink.objects.count() == 1
    assert AuditEntry.objects.count() == before + 6
    client = Client()
    client.force_login(bob)
    seen = body(client.get(reverse("conversation-links", args=[chat.pk])))
    assert "Make a public link" not in seen and links.token(one) not in seen and "1 holds now" in seen


def test_batches_too(batch: Batch, user: User, team: Team) -> None:
    made = post(user, "batch-links", batch.pk, days="1")
    assert links.token(ShareLink.objects.get()) in body(made)
    assert post(member(team, "bob"), "batch-links", batch.pk, days="1").status_code == 403


@pytest.mark.parametrize(
    ("days", "day", "why"),
    [
        ("", "", "Choose how long"),
        ("2", "", "Choose how long"),
        ("date", "", "year-month-day"),
        ("date", "tomorrow", "year-month-day"),
        ("date", "2026-02-31", "year-month-day"),
        ("date", "2001-01-01", "That day is over"),
        ("date", "9999-12-31", "at most a year"),
    ],
)
def test_a_wrong_end_is_told_where_it_was_typed(
    chat: Conversation, user: User, days: str, day: str, why: str
) -> None:
    answer = post(user, "conversation-links", chat.pk, days=days, day=day)
    assert answer.status_code == 422
    assert why in body(answer) and f'value="{day}"' in body(answer)
    assert not ShareLink.objects.exists()


def test_a_day_of_ones_own_is_its_end() -> None:
    chosen = timezone.localdate() + timedelta(days=100)
    assert timezone.localdate(links.read_end("date", chosen.isoformat())) == chosen
    last = timezone.localdate() + timedelta(days=365)
    assert links.read_end("date", last.isoformat()) <= timezone.now() + timedelta(days=365)


def test_there_are_not_more_than_a_person_overlooks(chat: Conversation, user: User) -> None:
    for _ in range(links.MOST):
        link(chat, user)
    with pytest.raises(links.LinkRefused, match="20 links already"):
        link(chat, user)
