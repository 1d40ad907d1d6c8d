"""Pictures of a chat: which are kept, for whom, who sees them, and what the engine is sent. No browser."""

import base64
import struct
import zlib
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from playground import generation, images, pictures, policy, schemas
from playground.answers import checked
from playground.engine_client import EngineError
from playground.history import messages
from playground.leases import question
from playground.models import (
    Conversation,
    Deployment,
    Generation,
    Image,
    Membership,
    Model,
    Replica,
    Team,
    Turn,
    User,
)
from tests import chats
from tests.fakes import RunningFake

pytestmark = pytest.mark.django_db
MIB = 1 << 20


def png(width: int = 4, height: int = 3, fill: int = 0) -> bytes:
    """A sound PNG; `fill` bytes of a chunk that nobody reads make it heavy."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x2a\x55\xc4" * width) * height)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"teXt", b"\0" * fill) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


JPEG = b"\xff\xd8\xff\xe0\x00\x04JF\xff\xc0\x00\x0b\x08\x00\x20\x00\x10\x01\x01\x11\x00\xff\xd9"
WEBP = b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x07\xc0\x00\x00" + b"\0" * 8


@pytest.fixture
def served(team: Team) -> Deployment:
    """A model that reads pictures, on the fake engine, ready."""
    model = Model.objects.create(team=team, name="seeing", source="local:seeing", takes_images=True)
    row = Deployment.objects.create(team=team, name="seeing", model=model, engine="fake")
    chats.ready(row, RunningFake("http://127.0.0.1:9", 9, "k", None))  # type: ignore[arg-type]
    return row


@pytest.fixture
def chat(team: Team, served: Deployment, user: User) -> Conversation:
    return chats.conversation(team, served, created_by=user)


def signed_in(person: User) -> Client:
    client = Client(headers={"HX-Request": "true"})
    client.force_login(person)
    return client


@pytest.fixture
def page(user: User) -> Client:
    return signed_in(user)


def member(team: Team, name: str, role: str = Membership.Role.MEMBER) -> Client:
    person = User.objects.create_user(username=name)
    Membership.objects.create(user=person, team=team, role=role)
    return signed_in(person)


def attach(page: Client, chat: Conversation, *files: bytes, name: str = "a.png") -> Any:
    given = [SimpleUploadedFile(name, raw, "image/png") for raw in files]
    return page.post(reverse("picture-attach", args=[chat.pk]), {"file": given})


def send(page: Client, chat: Conversation, *keys: int, text: str = "what?", client_id: str = "c1") -> Any:
    form = {"text": text, "client_id": client_id, "image": [str(key) for key in keys]}
    return page.post(reverse("turn-send", args=[chat.pk]), form)


# Which are kept


def test_png_jpeg_and_webp_are_kept_as_what_they_are_whatever_they_are_called(
    page: Client, chat: Conversation
) -> None:
    assert attach(page, chat, png(), JPEG, WEBP, name="../../etc/passwd.svg").status_code == 200
    found = list(Image.objects.values_list("kind", "width", "height", "sent"))
    assert found == [("png", 4, 3, False), ("jpeg", 16, 32, False), ("webp", 8, 4, False)]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "no PNG, JPEG or WebP"),
        (b"hello, I am a picture", "no PNG, JPEG or WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "no PNG, JPEG or WebP"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "no PNG, JPEG or WebP"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 64, "no PNG, JPEG or WebP"),
        (b"%PDF-1.7 " + b"\0" * 64, "no PNG, JPEG or WebP"),
        (png()[:20], "no PNG, JPEG or WebP"),
        (png()[:16] + struct.pack(">II", 0, 5), "0 by 5 pixels"),
        (png()[:16] + struct.pack(">II", 100_000, 100_000), "100,000 by 100,000 pixels"),
        (b"\xff\xd8" + b"\xff\xe0\x00\x00" * 2_000, "no PNG, JPEG or WebP"),
        (png(fill=4 * MIB), "more than 4 MiB"),
        (png(fill=30 * MIB), "more than 4 MiB"),
    ],
    ids=["empty", "text", "svg", "gif", "jp2", "pdf", "cut", "flat", "huge", "endless", "5 MB", "30 MB"],
)
def test_what_is_no_bearable_picture_is_refused_by_name(
    page: Client, chat: Conversation, raw: bytes, why: str
) -> None:
    answer = attach(page, chat, raw, name="holiday <b>.png")
    assert answer.status_code == 422
    text = answer.content.decode()
    assert "holiday &lt;b&gt;.png was not attached" in text and why in text
    assert not Image.objects.exists()


def test_four_wait_and_the_fifth_is_refused_while_the_four_stay(page: Client, chat: Conversation) -> None:
    answer = attach(page, chat, *[png()] * 5)
    assert answer.status_code == 422 and "4 pictures a message is the most" in answer.content.decode()
    assert answer.content.decode().count('name="image"') == Image.objects.count() == 4


def test_a_conversation_holds_so_many_bytes_of_them(page: Client, chat: Conversation, user: User) -> None:
    """Every answer is asked with all of them."""
    for _ in range(8):
        pictures.mark_sent([pictures.add(chat, "a.png", png(fill=3 * MIB), user).pk])
    Image.objects.update(size_bytes=4 * MIB)
    answer = attach(page, chat, png())
    assert answer.status_code == 422 and "more than 32 MiB" in answer.content.decode()


# For whom


def test_what_one_person_attached_waits_for_them_alone(page: Client, chat: Conversation, team: Team) -> None:
    attach(page, chat, png())
    key = Image.objects.get().pk
    other = member(team, "bob")
    assert 'name="image"' not in other.get(reverse("conversation", args=[chat.pk])).content.decode()
    assert other.post(reverse("picture-discard", args=[key])).status_code == 404
    assert send(other, chat, key).status_code == 200
    assert Turn.objects.get().inputs == {}, "a teammate's picture is not theirs to send"
    assert send(page, chat, key, client_id="c2").status_code == 200
    assert Image.objects.get().sent
    assert other.get(reverse("picture", args=[key])).status_code == 200, "what was said is the team's"
    assert page.post(reverse("picture-discard", args=[key])).status_code == 200
    assert Image.objects.exists(), "and stays with its message"


def test_another_teams_picture_is_not_there(
    page: Client, chat: Conversation, stranger: User, served: Deployment
) -> None:
    attach(page, chat, png())
    key = Image.objects.get().pk
    them = signed_in(stranger)
    assert them.get(reverse("picture", args=[key])).status_code == 404
    assert them.post(reverse("picture-discard", args=[key])).status_code == 404
    assert attach(them, chat, png()).status_code == 404
    theirs = Membership.objects.get(user=stranger).team
    model = Model.objects.create(team=theirs, name="m", source="local:m", takes_images=True)
    row = Deployment.objects.create(team=theirs, name="m", model=model, engine="fake")
    chats.ready(row, RunningFake("http://127.0.0.1:9", 9, "k", None))  # type: ignore[arg-type]
    own = chats.conversation(theirs, row)
    assert send(them, own, key, text=f"image:{key}").status_code == 200
    turn = own.turns.get()
    assert turn.inputs == {}
    body = checked(question(turn.generations.get(), row.replicas.get()))
    assert body["messages"][-1]["content"] == f"image:{key}", "its name in a text is a text"
    assert Image.objects.get().sent is False


def test_a_viewer_sees_pictures_and_attaches_none(chat: Conversation, page: Client, team: Team) -> None:
    attach(page, chat, png())
    viewer = member(team, "vera", Membership.Role.VIEWER)
    assert attach(viewer, chat, png()).status_code == 403
    assert viewer.get(reverse("picture", args=[Image.objects.get().pk])).status_code == 200
    assert Client().get(reverse("picture", args=[Image.objects.get().pk])).status_code in (302, 403, 404)


def test_a_picture_is_shown_as_a_picture_and_as_nothing_else(page: Client, chat: Conversation) -> None:
    raw = png() + b"<script>alert(1)</script>"
    attach(page, chat, raw)
    answer = page.get(reverse("picture", args=[Image.objects.get().pk]))
    assert (answer.content, answer["Content-Type"]) == (raw, "image/png")
    assert answer["X-Content-Type-Options"] == "nosniff" and "sandbox" in answer["Content-Security-Policy"]
    assert "private" in answer["Cache-Control"]


def test_they_go_with_their_conversation(page: Client, chat: Conversation) -> None:
    attach(page, chat, png())
    page.post(reverse("conversation-delete", args=[chat.pk]))
    assert not Image.objects.exists()


# What the engine is sent


def asked(chat: Conversation, client_id: str) -> Generation:
    return Generation.objects.get(turn__conversation=chat, turn__client_id=client_id)


def test_the_engine_gets_the_bytes_and_the_request_kept_only_their_name(
    page: Client, chat: Conversation, served: Deployment
) -> None:
    attach(page, chat, png())
    key = Image.objects.get().pk
    send(page, chat, key)
    row, replica = asked(chat, "c1"), Replica.objects.get()
    put = question(row, replica)
    assert put.body()["messages"][-1]["content"][1]["image_url"]["url"] == f"image:{key}"
    sent = checked(put)["messages"][-1]["content"]
    assert sent[0] == {"type": "text", "text": "what?"}
    assert base64.b64decode(sent[1]["image_url"]["url"].removeprefix("data:image/png;base64,")) == png()
    Generation.objects.update(state="complete", text="a square")
    row.refresh_from_db()
    generation.send(chat, "and now?", "c2", User.objects.get(), row.turn, [row])
    later = messages(asked(chat, "c2"))
    assert later[0]["content"][1]["image_url"]["url"] == f"image:{key}", "what was said before goes along"
    model = Model.objects.get(name="seeing")
    model.takes_images = False
    model.save()
    blind = question(asked(chat, "c2"), Replica.objects.select_related("deployment__model").get())
    assert blind.unseen and all(isinstance(one["content"], str) for one in blind.asked["messages"])


def test_one_whose_row_is_gone_is_refused_not_left_out(page: Client, chat: Conversation) -> None:
    attach(page, chat, png())
    send(page, chat, Image.objects.get().pk)
    put = question(asked(chat, "c1"), Replica.objects.get())
    Image.objects.all().delete()
    with pytest.raises(EngineError, match="data: URL"):
        checked(put)


def test_a_model_that_reads_none_refuses_them_before_anything_is_kept(
    page: Client, chat: Conversation
) -> None:
    attach(page, chat, png())
    Model.objects.update(takes_images=False)
    answer = send(page, chat, Image.objects.get().pk)
    assert answer.status_code == 422 and "does not read pictures" in answer.content.decode()
    assert not Turn.objects.exists() and not Image.objects.get().sent


# By the API


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://169.254.169.254/latest/meta-data", "unsupported_image"),
        ("file:///etc/passwd", "unsupported_image"),
        ("image:7", "unsupported_image"),
        (None, "unsupported_image"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "unsupported_image"),
        ("data:image/jp2;base64,AAAA", "unsupported_image"),
        ("data:image/png;base64,%%%", "invalid_image"),
        ("data:image/png;base64," + base64.b64encode(b"no picture").decode(), "invalid_image"),
        ("data:image/jpeg;base64," + base64.b64encode(png()).decode(), "invalid_image"),
        (
            "data:image/png;base64,"
            + base64.b64encode(png()[:16] + struct.pack(">II", 10**5, 10**5)).decode(),
            "image_too_large",
        ),
        ("data:image/png;base64," + "A" * (22 * MIB + 400_000), "image_too_large"),
    ],
)
def test_images_of_a_request_are_inline_and_what_they_say_they_are(url: Any, code: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    with pytest.raises(schemas.BadRequest) as refused:
        policy.check(body, chat=True)
    assert refused.value.code == code
    assert refused.value.param == "messages[0].content[0].image_url"
    whole = images.data_url("png", png())
    policy.check(
        {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": whole}}]}],
        },
        chat=True,
    )
