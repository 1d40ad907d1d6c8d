"""The pages of the frame: complete on their first GET, closed to strangers, honest about what went wrong."""

import pytest
from django.test import Client
from django.urls import reverse

from playground import teams
from playground.models import User


@pytest.fixture
def browser_of(db: None):
    def sign_in(user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return sign_in


def test_it_leads_to_sign_in_without_a_session(client: Client, db: None) -> None:
    answer = client.get(reverse("home"))
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(reverse("sign-in"))


def test_it_signs_in_by_a_link_once(client: Client, user: User) -> None:
    token = teams.make_login_link(user)
    assert client.get(reverse("sign-in-link", args=[token])).headers["Location"] == "/"
    assert client.get("/").status_code == 200
    again = Client().get(reverse("sign-in-link", args=[token]))
    assert again.status_code == 410
    assert b"manage.py signin" in again.content
