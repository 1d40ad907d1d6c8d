"""Pictures into a real engine: a tiny LLaVA of random weights on vLLM, asked by the API and by the page.

No package carries weights of a model that sees, so what it answers is noise. What is shown here is that its
pictures reach it: they are counted in the prompt, and a broken one is refused.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from playground import catalogue, environments, images
from playground.models import Image, Model, Team
from tests import real_engines
from tests.gateway_site import Site
from tests.served import Served, serving, site
from tests.test_pictures import png

__all__ = ["site"]
pytestmark = [pytest.mark.engines, pytest.mark.slow]
PROGRAM = Path(__file__).with_name("make_seeing_model.py")
# Patches of one picture: 56 by 56 pixels, 14 by 14 each.
PATCHES = 16


@pytest.fixture(scope="module")
def live(site: Site) -> Iterator[Served]:
    team = Team.objects.get(slug="default")
    with serving(site, made(team), "vllm", {"kv_cache_gib": 0.25, "max_model_len": 1024}) as one:
        yield one


def made(team: Team) -> Model:
    """The model as it was found in the models folder."""
    _, demo = real_engines.demo("safetensors")
    python = environments.path(real_engines.environment("vllm")) / "bin" / "python"
    target = catalogue.root() / "tiny-llava"
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(
        [python, PROGRAM, catalogue.root() / demo.path, target], check=True, capture_output=True, cwd="/"
    )
    catalogue.scan(team)
    return Model.objects.get(team=team, source="local:tiny-llava")


def ask(live: Served, *pictures: bytes) -> Any:
    parts = [{"type": "image_url", "image_url": {"url": images.data_url("png", raw)}} for raw in pictures]
    content = [{"type": "text", "text": "What is this?"}, *parts]
    messages: Any = [{"role": "user", "content": content}]
    client = live.site.client()
    return client.chat.completions.create(model=live.name, messages=messages, max_tokens=4, temperature=0)


def test_its_files_say_that_it_sees(live: Served) -> None:
    model = live.row.model
    assert (model.task, model.takes_images, model.refused) == ("chat", True, "")


def test_each_picture_of_a_request_is_read(live: Served) -> None:
    none, one, two = (ask(live, *[png(64, 48)] * count).usage.prompt_tokens for count in range(3))
    assert (one - none, two - none) == (PATCHES, 2 * PATCHES)


def test_one_whose_pixels_are_missing_is_refused_by_the_engine_in_words(live: Served) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(live, png(64, 48)[:60])
    assert refused.value.code == "refused_by_engine"
    assert ask(live, png(8, 8)).choices, "and it serves on"


def test_a_picture_goes_from_the_composer_to_the_engine(live: Served) -> None:
    with live.browser() as (browser, chat):
        file = {"file": ("blue.png", png(64, 48), "image/png")}
        assert browser.post(f"/playground/{chat.pk}/pictures/", files=file).status_code == 200
        key = str(Image.objects.get(conversation=chat).pk)
        browser.post(f"/playground/{chat.pk}/settings/", data={"max_tokens": "4"})
        alone = live.send(browser, chat, "What is this?")
        seen = live.send(browser, chat, "What is this?", image=key)
        page = browser.get(f"/playground/{chat.pk}/").text
    assert (seen.state, alone.state) == ("complete", "complete"), (seen.error, alone.error)
    assert seen.usage["prompt_tokens"] - alone.usage["prompt_tokens"] == PATCHES
    assert f"/playground/pictures/{key}/" in page
