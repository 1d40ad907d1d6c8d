"""Tasks beyond chat: told from files, offered by engines that have them, asked, read and shown."""

import json
import math
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from playground import conversations, engines, generation, kinds, snippets, widgets
from playground.answers import Question
from playground.engine_client import Target
from playground.engines.base import PATHS, LocalModel
from playground.kinds import Kind
from playground.models import Conversation, Deployment, Generation, Model, Team, User
from playground.results import shown
from tests import chats
from tests.fakes import HARDWARE, RunningFake

CHAT, COMPLETION, EMBEDDING, RERANK, CLASSIFICATION = (
    "chat",
    "completion",
    "embedding",
    "rerank",
    "classification",
)
TEMPLATE = "{{ messages }}"
POOLED = [{"idx": 0, "type": "sentence_transformers.models.Transformer"}]


# What a model is for


@pytest.mark.parametrize(
    ("config", "modules", "template", "name", "kind"),
    [
        # A base model, a chat model, and one that sees, in the three ways configs say so.
        ({"architectures": ["LlamaForCausalLM"]}, None, "", "llama-base", Kind(COMPLETION)),
        ({"architectures": ["LlamaForCausalLM"]}, None, TEMPLATE, "llama", Kind(CHAT)),
        ({"architectures": ["GPT2LMHeadModel"]}, None, "", "gpt2", Kind(COMPLETION)),
        (
            {"architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {"depth": 1}},
            None,
            TEMPLATE,
            "qwen2-vl",
            Kind(CHAT, takes_images=True),
        ),
        (
            {"architectures": ["LlavaForConditionalGeneration"], "image_token_index": 32000},
            None,
            TEMPLATE,
            "llava",
            Kind(CHAT, takes_images=True),
        ),
        (
            {"architectures": ["SmolVLMForConditionalGeneration"], "image_token_id": 49190},
            None,
            TEMPLATE,
            "smolvlm",
            Kind(CHAT, takes_images=True),
        ),
        (
            {"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": None},
            None,
            TEMPLATE,
            "text",
            Kind(CHAT),
        ),
        # Encoders, and language models that sentence-transformers pools.
        ({"architectures": ["BertModel"]}, POOLED, "", "minilm", Kind(EMBEDDING)),
        ({"architectures": ["XLMRobertaModel"]}, None, "", "e5", Kind(EMBEDDING)),
        ({"architectures": ["BertForMaskedLM"]}, None, "", "bert", Kind(EMBEDDING)),
        ({"architectures": ["Qwen3ForCausalLM"]}, POOLED, TEMPLATE, "qwen3-embed", Kind(EMBEDDING)),
        # One score ranks, several are labels; a language model that ranks says so in its name alone.
        (
            {"architectures": ["XLMRobertaForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
            None,
            "",
            "bge-reranker",
            Kind(RERANK),
        ),
        (
            {"architectures": ["BertForSequenceClassification"], "num_labels": 1},
            POOLED,
            "",
            "cross-encoder",
            Kind(RERANK),
        ),
        (
            {
                "architectures": ["RobertaForSequenceClassification"],
                "id2label": {"1": "positive", "0": "negative"},
            },
            None,
            "",
            "sentiment",
            Kind(CLASSIFICATION, labels=("negative", "positive")),
        ),
        ({"architectures": ["Qwen3ForCausalLM"]}, None, TEMPLATE, "Qwen3-Reranker-0.6B", Kind(RERANK)),
        # What people write into a config is not taken at its word.
        (
            {"architectures": ["BertForSequenceClassification"], "id2label": {"../x": "a", "1": "b"}},
            None,
            "",
            "odd",
            Kind(CLASSIFICATION),
        ),
        (
            {"architectures": ["BertForSequenceClassification"], "id2label": ["a", "b"]},
            None,
            "",
            "odd",
            Kind(CLASSIFICATION),
        ),
        (
            {
                "architectures": ["BertForSequenceClassification"],
                "id2label": {str(at): f"label {at}" for at in range(1001)},
            },
            None,
            "",
            "endless",
            Kind(CLASSIFICATION),
        ),
        ({"architectures": None}, None, TEMPLATE, "none", Kind(CHAT)),
    ],
)
def test_a_folder_says_what_its_model_is_for(
    config: dict[str, Any], modules: Any, template: str, name: str, kind: Kind
) -> None:
    assert kinds.of_folder(config, modules, template, name) == kind


@pytest.mark.parametrize(
    ("architectures", "refused"),
    [
        (["WhisperForConditionalGeneration"], True),
        (["ViTForImageClassification"], True),
        (["BertForTokenClassification"], True),
        (["RobertaForQuestionAnswering"], True),
        (["Wav2Vec2ForCTC"], True),
        (["BertForMaskedLM"], False),
        (["Qwen3VLForConditionalGeneration"], False),
        (["AyaVisionForImageTextToText"], False),
        (["BertForTokenClassification", "BertModel"], False),
        (None, False),
    ],
)
def test_what_nobody_could_ask_here_is_no_model_of_texts(architectures: Any, refused: bool) -> None:
    why = kinds.why_none({"architectures": architectures})
    assert bool(why) is refused
    assert not refused or architectures[0] in why


@pytest.mark.parametrize(
    ("architecture", "pooling", "template", "projector", "kind"),
    [
        ("llama", None, TEMPLATE, None, Kind(CHAT)),
        ("llama", None, "", None, Kind(COMPLETION)),
        ("llama", 0, TEMPLATE, None, Kind(CHAT)),
        ("qwen2vl", None, TEMPLATE, Path("mmproj-f16.gguf"), Kind(CHAT, takes_images=True)),
        ("bert", 1, "", None, Kind(EMBEDDING)),
        ("nomic-bert", None, "", None, Kind(EMBEDDING)),
        ("qwen3", 3, TEMPLATE, None, Kind(EMBEDDING)),
        ("bert", 4, "", None, Kind(RERANK)),
        ("qwen3", 4, TEMPLATE, None, Kind(RERANK)),
    ],
)
def test_a_gguf_file_says_what_its_model_is_for(
    architecture: str, pooling: int | None, template: str, projector: Path | None, kind: Kind
) -> None:
    assert kinds.of_gguf(architecture, pooling, template, projector) == kind


@pytest.mark.parametrize(
    ("tag", "template", "kind"),
    [
        ("text-generation", TEMPLATE, Kind(CHAT)),
        ("text-generation", "", Kind(COMPLETION)),
        ("sentence-similarity", "", Kind(EMBEDDING)),
        ("text-ranking", "", Kind(RERANK)),
        ("text-classification", "", Kind(CLASSIFICATION)),
        ("image-text-to-text", TEMPLATE, Kind(CHAT, takes_images=True)),
        (None, "", Kind(COMPLETION)),
    ],
)
def test_a_hub_tag_says_it_before_any_file_is_here(tag: str | None, template: str, kind: Kind) -> None:
    assert kinds.of_pipeline(tag, template) == kind


@pytest.mark.parametrize(
    ("said", "context", "tokens"),
    [
        ({"max_seq_length": 256}, 512, 256),
        ({"max_seq_length": 8192}, 512, 512),
        ({"max_seq_length": 256}, None, 256),
        ({"max_seq_length": None}, 512, 512),
        ({"max_seq_length": -1}, 512, 512),
        ({"max_seq_length": True}, 512, 512),
        (["odd"], 512, 512),
        (None, 512, 512),
    ],
)
def test_an_embedding_models_context_is_what_its_makers_cut_texts_at(
    said: Any, context: int | None, tokens: int
) -> None:
    assert kinds.read_at_once({"sentence_bert_config.json": said}, context) == tokens


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "several"),
        ({"pooling_mode": "mean"}, "mean"),
        ({}, ""),
        ("odd", ""),
    ],
)
def test_how_a_text_becomes_one_vector_is_known_and_sglang_refuses_what_it_would_make_otherwise(
    said: Any, pooling: str
) -> None:
    assert kinds.pooling({"1_Pooling/config.json": said}) == pooling
    facts = {"pooling": pooling} if pooling else {}
    model = LocalModel("m", Path("/m"), "safetensors", task=EMBEDDING, facts=facts)
    verdict = engines.get("sglang").supports(model)
    assert verdict.ok is (pooling in ("cls", "last", ""))
    assert verdict.ok or pooling in verdict.why


# Who can serve it

REAL = [engine for engine in engines.all() if engine.name not in ("fake", "external")]
# What each refuses, in the words a person reads beside the greyed engine.
REFUSES = {
    "llama.cpp": {CLASSIFICATION: "no classification"},
    "transformers": dict.fromkeys((EMBEDDING, RERANK, CLASSIFICATION), "has no"),
    "triton": dict.fromkeys((EMBEDDING, RERANK, CLASSIFICATION), ""),
    "vllm": {},
}


@pytest.mark.parametrize("task", [CHAT, COMPLETION, EMBEDDING, RERANK, CLASSIFICATION])
@pytest.mark.parametrize("engine", REAL, ids=lambda engine: engine.name)
def test_an_engine_takes_a_task_only_if_it_has_the_route_that_asks_it(engine: Any, task: str) -> None:
    model = LocalModel("m", Path("/m"), engine.kinds[0], task=task, architecture="BertModel")
    verdict = engine.supports(model)
    if verdict.ok:
        assert ("POST", PATHS[task]) in engine.quirks.routes
    else:
        assert verdict.why
        assert REFUSES.get(engine.name, {}).get(task, verdict.why) in verdict.why
    if engine.name in REFUSES:
        assert verdict.ok is (task not in REFUSES[engine.name])


def test_vllm_ranks_with_a_head_and_says_so_of_a_reranker_without_one() -> None:
    model = LocalModel("m", Path("/m"), "safetensors", task=RERANK, architecture="Qwen3ForCausalLM")
    assert "scoring head" in engines.get("vllm").supports(model).why


@pytest.mark.parametrize(
    ("task", "context", "options", "tokens"),
    [
        (EMBEDDING, 512, {}, "512"),
        (EMBEDDING, 1024, {}, "1024"),
        (RERANK, 8192, {}, "2048"),
        (EMBEDDING, 8192, {"context": 768}, "768"),
        (EMBEDDING, 8192, {"micro_batch": 4096, "batch": 4096}, "4096"),
        (CHAT, 8192, {}, None),
    ],
)
def test_llama_cpp_is_given_room_for_a_whole_text_to_embed(
    task: str, context: int, options: dict[str, Any], tokens: str | None
) -> None:
    adapter = engines.get("llama.cpp")
    model = LocalModel("m", Path("/m.gguf"), "gguf", task=task, context_length=context)
    line = adapter.command(Path("/e"), model, adapter.Options(**options), 1, "m", HARDWARE)
    found = [line[at + 1] for at, word in enumerate(line) if word == "--ubatch-size"]
    assert found == ([tokens] if tokens else [])


# What is asked, and what is read of the answer


def test_what_is_typed_becomes_one_text_a_line() -> None:
    assert widgets.asked(EMBEDDING, " one \r\n\n two\u2028three\n", {}) == {"input": ["one", "two", "three"]}
    assert widgets.asked(COMPLETION, " as it\n is ", {}) == {"prompt": " as it\n is "}
    asked = widgets.asked(RERANK, "a\nb", {"query": "q"})
    assert asked == {"query": "q", "documents": ["a", "b"]}


@pytest.mark.parametrize(
    ("task", "text", "inputs", "why"),
    [
        (EMBEDDING, "x\n" * 33, {}, "33 texts; 32 at a time"),
        (EMBEDDING, "x\n" * 500, {}, "500 texts"),
        (RERANK, "one\ntwo", {}, "Type the query"),
        (RERANK, "one\ntwo", {"query": "  "}, "Type the query"),
        (RERANK, "one\ntwo", {"query": "q" * 10_001}, "10,001 characters"),
    ],
)
def test_what_is_too_much_or_lacks_a_part_is_said(
    task: str, text: str, inputs: dict[str, Any], why: str
) -> None:
    with pytest.raises(widgets.Unfit, match=why):
        widgets.check(task, text, inputs)


def rows(*vectors: Any) -> dict[str, Any]:
    return {"data": [{"index": at, "embedding": one} for at, one in enumerate(vectors)]}


def test_vectors_are_kept_whole_and_shown_with_their_cosines() -> None:
    asked = {"input": ["east", "north", "nowhere"]}
    answer = rows([3.0, 0.0], [0.0, 0.5], [0.0, 0.0])
    answer["data"].reverse()
    result, kept = widgets.read(EMBEDDING, asked, answer)
    assert result["norms"] == [3, 0.5, 0]
    assert result["similarity"] == [[1, 0, None], [0, 1, None], [None, None, None]]
    assert kept and widgets.vector(kept, 2, 1) == [0.0, 0.5]
    page = shown(Generation(result=result, request=asked))
    assert page and page.dimension == 2
    assert [[cell.shade for cell in cells] for _, cells in page.matrix] == [[10, 0, 0], [0, 10, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (rows([1.0]), "1 of 2"),
        (rows([1.0], [1.0], [1.0]), "3 of 2"),
        ({"data": "no list"}, "0 of 2"),
        ({}, "0 of 2"),
        ({"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}]}, "1 of 2"),
        ({"data": [{"index": True, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}]}, "1 of 2"),
        (rows([1.0], [1.0, 2.0]), "different lengths"),
        (rows([1.0], []), "no numbers"),
        (rows([1.0], None), "no numbers"),
        (rows([1.0], [math.nan]), "not a number"),
        (rows([1.0], [math.inf]), "not a number"),
        (rows([1.0], [None]), "not a number"),
        (rows([1.0], ["1"]), "not a number"),
        (rows([1.0], [10**400]), "not a number"),
        (rows([1.0], [1e39]), "not a number"),
        (rows([[1.0]], [[1.0]]), "not a number"),
    ],
)
def test_an_answer_that_does_not_fit_what_was_asked_is_said_not_shown(
    answer: dict[str, Any], why: str
) -> None:
    with pytest.raises(widgets.Malformed, match=why):
        widgets.read(EMBEDDING, {"input": ["one", "two"]}, answer)


def test_ranks_come_best_first_on_one_scale_however_they_came() -> None:
    asked = {"query": "q", "documents": ["a", "b", "c"]}
    scores = [(2, -1.0), (0, 3.0), (1, 1.0)]
    answer = {"results": [{"index": at, "relevance_score": score} for at, score in scores]}
    result, _ = widgets.read(RERANK, asked, answer)
    page = shown(Generation(result=result, request=asked))
    assert page
    assert [(bar.name, bar.score, bar.start, bar.width) for bar in page.bars] == [
        ("a", 3.0, 25, 75),
        ("b", 1.0, 25, 25),
        ("c", -1.0, 0, 25),
    ]
    level = {"results": [{"index": at, "relevance_score": 0.0} for at in range(3)]}
    flat = shown(Generation(result=widgets.read(RERANK, asked, level)[0], request=asked))
    assert flat and {bar.width for bar in flat.bars} == {0}


def test_labels_are_named_by_the_model_where_the_engine_names_none() -> None:
    shares = [0.01 * at for at in range(12)]
    answer = {"data": [{"index": 0, "probs": shares}]}
    result, _ = widgets.read(CLASSIFICATION, {"input": ["x"]}, answer, ("first", "second"))
    (one,) = result["texts"]
    assert (one["label"], one["more"]) == ("label 11", 2)
    assert len(one["scores"]) == 10
    named = widgets.read(CLASSIFICATION, {"input": ["x"]}, answer | {}, tuple("abcdefghijkl"))[0]
    assert named["texts"][0]["label"] == "l"


def test_what_a_task_does_not_know_is_not_sent_with_it() -> None:
    target = Target("http://x", {}, "served", "fake", 1)
    question = Question(target, {"input": ["a"]}, {"temperature": 0.5}, EMBEDDING)
    assert question.body() == {"model": "served", "input": ["a"]}
    assert question.ignored() == []
    assert question.path == "/v1/embeddings"


# Code to copy


@pytest.mark.parametrize("task", snippets.EXAMPLES)
def test_code_asks_the_task_in_three_languages(task: str) -> None:
    asked = dict(snippets.EXAMPLES[task])
    found = {
        one.language: one.text for one in snippets.snippets("http://h/v1", "deployment/7", task, asked, {})
    }
    assert f"http://h/v1{snippets.PATHS[task]}" in found["bash"]
    body = json.loads(found["bash"].partition("-d '")[2].removesuffix("'"))
    assert body.pop("model") == "deployment/7"
    assert body.pop("stream", False) is (task in widgets.GENERATES)
    assert body == asked
    compile(found["python"], task, "exec")
    for text in found.values():
        assert "SLIPWAY_API_KEY" in text and "sk-" not in text


# The page


@pytest.fixture
def page(user: User) -> Client:
    client = Client(headers={"HX-Request": "true"})
    client.force_login(user)
    return client


def of_task(team: Team, task: str) -> Deployment:
    model = Model.objects.create(team=team, name=task, source=f"local:{task}", task=task)
    row = Deployment.objects.create(team=team, name=task, model=model, engine="fake")
    chats.ready(row, RunningFake("http://127.0.0.1:9", 9, "k", None))  # type: ignore[arg-type]
    return row


@pytest.fixture
def chat(team: Team, user: User) -> Conversation:
    return chats.conversation(team, of_task(team, RERANK), created_by=user, task=RERANK)


def post(page: Client, name: str, pk: int, **form: str) -> Any:
    return page.post(reverse(name, args=[pk]), {"client_id": f"c{Generation.objects.count()}"} | form)


@pytest.mark.django_db
def test_a_query_with_a_nul_is_asked_without_it_also_when_edited(page: Client, chat: Conversation) -> None:
    assert post(page, "turn-send", chat.pk, text="a\nb", query="x\x00y").status_code == 200
    turn = chat.turns.get()
    assert turn.inputs == {"query": "xy"}
    assert post(page, "turn-edit", turn.pk, text="a\nb\nc", query="z\x00").status_code == 200
    assert chat.turns.latest("pk").inputs == {"query": "z"}


@pytest.mark.django_db
def test_a_megabyte_and_a_double_click_are_one_message_or_none(page: Client, chat: Conversation) -> None:
    heavy = post(page, "turn-send", chat.pk, text="x" * (1 << 20), query="q")
    assert heavy.status_code == 422 and "1,048,576 characters" in heavy.content.decode()
    for _ in range(2):
        assert post(page, "turn-send", chat.pk, text="a", query="q", client_id="once").status_code == 200
    assert chat.turns.count() == 1


@pytest.mark.django_db
def test_a_vector_is_its_teams_alone_and_only_where_there_is_one(
    page: Client, team: Team, user: User, stranger: User
) -> None:
    chat = chats.conversation(team, of_task(team, EMBEDDING), task=EMBEDDING)
    row = generation.send(chat, "one\ntwo", "c1", user).generations.get()
    assert page.get(reverse("vector", args=[row.pk, 0])).status_code == 404, "not yet"
    result, kept = widgets.read(EMBEDDING, {"input": ["one", "two"]}, rows([1.0, 0.1], [0.5, 0.5]))
    Generation.objects.filter(pk=row.pk).update(state="complete", result=result, vectors=kept)
    assert page.get(reverse("vector", args=[row.pk, 0])).json() == [1.0, 0.100000001]
    assert array("f", kept or b"").tolist() == pytest.approx([1.0, 0.1, 0.5, 0.5])
    assert page.get(reverse("vector", args=[row.pk, 2])).status_code == 404
    them = Client()
    them.force_login(stranger)
    assert them.get(reverse("vector", args=[row.pk, 0])).status_code == 404


@pytest.mark.django_db
def test_a_conversation_takes_only_models_of_its_task(team: Team, chat: Conversation) -> None:
    with pytest.raises(conversations.ConversationRefused, match="embeds texts; here documents are ranked"):
        conversations.choose(chat.columns.get(), of_task(team, EMBEDDING))


@pytest.mark.django_db
def test_a_new_conversation_is_of_its_models_task(page: Client, team: Team) -> None:
    row = of_task(team, CLASSIFICATION)
    page.get(reverse("conversation-new") + f"?deployment={row.pk}")
    assert Conversation.objects.get().task == CLASSIFICATION
    shown_page = page.get(reverse("conversation", args=[Conversation.objects.get().pk])).content.decode()
    assert "Texts, one a line" in shown_page and ">Classify<" in shown_page and "Query" not in shown_page


# The shell


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("task", "texts", "query", "said"),
    [
        (EMBEDDING, ["the cat", "the cat"], "", "of 16; cosines [1.0, 1.0]"),
        (RERANK, ["bananas", "a cat"], "cat", "  1.0000  a cat"),
        (CLASSIFICATION, ["what a match"], "", "0.8000  short  what a match"),
        (COMPLETION, ["Once [[tokens=2]]"], "", "word0 word1"),
    ],
)
def test_the_shell_asks_what_a_model_is_for(
    team: Team,
    fake_engine: Callable[..., RunningFake],
    capsys: pytest.CaptureFixture[str],
    task: str,
    texts: list[str],
    query: str,
    said: str,
) -> None:
    row = of_task(team, task)
    fake = fake_engine(key="k")
    row.replicas.update(port=fake.port, engine_key="k")
    call_command("ask", str(row.pk), *texts, *(["--query", query] if query else []))
    assert said in capsys.readouterr().out
    call_command("ask", str(row.pk), *texts, *(["--query", query] if query else []), "--json")
    assert json.loads(capsys.readouterr().out)["usage"]["prompt_tokens"] > 0


@pytest.mark.django_db
def test_the_shell_says_which_verb_a_chat_wants_and_what_a_rank_lacks(
    team: Team, capsys: pytest.CaptureFixture[str]
) -> None:
    for row, code, words in ((of_task(team, CHAT), 4, "manage.py chat"), (of_task(team, RERANK), 2, "query")):
        with pytest.raises(SystemExit) as ended:
            call_command("ask", str(row.pk), "a", "b", "--json")
        assert ended.value.code == code
        assert words in json.loads(capsys.readouterr().out)["error"]
