"""Real embeddings: MiniLM's own weights, found in the catalogue, served by engines, asked by page and API.

llama.cpp loads them here; vLLM loads the folder as it is published, in `make test-engines`.
"""

import math
import shutil
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from playground import catalogue, engines
from playground.models import Model, Team
from tests import minilm
from tests.gateway_site import Site
from tests.minilm import ALIKE, DIMENSION, HAPPY
from tests.served import Served, serving, site

__all__ = ["site"]
# One thread: a second one that waits for a busy core costs more than it brings.
OPTIONS: dict[str, dict[str, Any]] = {"llama.cpp": {"threads": 1}, "vllm": {"kv_cache_gib": 0.25}}
KINDS = {"llama.cpp": "gguf", "vllm": "safetensors"}
heavy = [pytest.mark.engines, pytest.mark.slow]
every = pytest.mark.parametrize("live", ["llama.cpp", pytest.param("vllm", marks=heavy)], indirect=True)


@pytest.fixture(scope="module")
def live(request: pytest.FixtureRequest, site: Site) -> Iterator[Served]:
    """MiniLM on a real engine, with a site in front."""
    engine = request.param
    model = added(Team.objects.get(slug="default"), KINDS[engine])
    with serving(site, model, engine, OPTIONS[engine]) as one:
        yield one


def added(team: Team, kind: str) -> Model:
    """MiniLM as somebody put it into the models folder: as published, or as a GGUF file."""
    catalogue.root().mkdir(parents=True, exist_ok=True)
    if kind == "safetensors":
        shutil.copytree(minilm.folder(), catalogue.root() / minilm.NAME, dirs_exist_ok=True)
    else:
        shutil.copy(minilm.gguf(), catalogue.root())
    catalogue.scan(team)
    name = minilm.NAME if kind == "safetensors" else minilm.gguf().name
    return Model.objects.get(team=team, source=f"local:{name}")


def cosine(one: list[float], other: list[float]) -> float:
    return math.sumprod(one, other) / (math.hypot(*one) * math.hypot(*other))


def embedded(live: Served, *texts: str, **more: Any) -> openai.types.CreateEmbeddingResponse:
    wanted = {"encoding_format": "float"} | more
    return live.site.client().embeddings.create(model=live.name, input=list(texts), **wanted)


@pytest.mark.django_db
def test_it_is_found_to_embed_and_each_engine_says_whether_it_can(team: Team) -> None:
    model = added(team, "safetensors")
    assert (model.task, model.architecture, model.refused) == ("embedding", "BertModel", "")
    assert model.parameters == 22_713_216 + 512, "the position ids are counted with the weights"
    assert model.context_length == 256, "what its makers cut texts at, not what BERT could take"
    said = {name: catalogue.candidate(model, engines.get(name))[1] for name in engines.names()}
    assert [name for name in engines.names() if name not in ("fake", "external") and said[name].ok] == [
        "vllm"
    ]
    assert "mean" in said["sglang"].why, "it takes a text's first token, whatever the model was made for"
    assert "GGUF" in said["llama.cpp"].why and "embed" in said["transformers"].why
    small = added(team, "gguf")
    assert (small.task, small.architecture, small.context_length) == ("embedding", "bert", 512)
    assert catalogue.candidate(small, engines.get("llama.cpp"))[1].ok


@every
def test_its_vectors_are_those_the_model_is_known_for(live: Served) -> None:
    answer = embedded(live, HAPPY, *ALIKE)
    happy, *rest = (row.embedding for row in answer.data)
    assert len(happy) == DIMENSION and math.hypot(*happy) == pytest.approx(1, abs=1e-3)
    found = [cosine(happy, one) for one in rest]
    assert found == pytest.approx(list(ALIKE.values()), abs=0.002)
    assert answer.usage.prompt_tokens == 29
    print(f"{live.row.engine}: {[round(value, 4) for value in found]}")


@every
def test_packed_as_base64_they_are_the_same(live: Served) -> None:
    plain = embedded(live, HAPPY).data[0].embedding
    lenient = live.site.client().with_options(_extra_kwargs={"_strict_response_validation": False})
    packed = lenient.embeddings.create(model=live.name, input=HAPPY).data[0].embedding
    assert packed == pytest.approx(plain, abs=1e-6)


@every
def test_a_text_of_its_whole_context_is_embedded_and_a_longer_one_refused(live: Served) -> None:
    assert embedded(live, "word " * 250).usage.prompt_tokens == 252
    with pytest.raises(openai.BadRequestError) as refused:
        embedded(live, "short", "word " * 600)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")


@every
def test_fewer_dimensions_than_it_has_are_refused_not_ignored(live: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        embedded(live, HAPPY, dimensions=128)


@every
def test_it_ranks_by_cosine_where_the_engine_does(live: Served) -> None:
    asked = {"model": live.name, "query": HAPPY, "documents": list(ALIKE)}
    answer = live.site.post("/v1/rerank", json=asked)
    if live.row.engine == "vllm":
        assert [row["index"] for row in answer.json()["results"]] == [1, 0, 2]
        return
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("This model embeds texts")


@every
def test_the_page_shows_the_vectors_the_api_gives(live: Served) -> None:
    with live.browser() as (browser, chat):
        row = live.send(browser, chat, "\n".join([HAPPY, *ALIKE]))
        assert row.state == "complete", row.error
        page = browser.get(f"/playground/{chat.pk}/").text
        vector = browser.get(f"/playground/answers/{row.pk}/vectors/0/").json()
    assert f"4 vectors of {DIMENSION} numbers" in page
    for value in ("0.69", "0.94", "0.26"):
        assert value in page
    assert vector == pytest.approx(embedded(live, HAPPY).data[0].embedding, abs=1e-5)
    assert row.usage["prompt_tokens"] == 29
