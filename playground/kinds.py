"""What a model is for, told from its files: which task, and whether its chat reads images.

Pure: takes what was read of a folder or a GGUF file, or the Hub's pipeline tag. Knows nothing about rows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHAT, COMPLETION, EMBEDDING = "chat", "completion", "embedding"
RERANK, CLASSIFICATION = "rerank", "classification"

# How people name each.
NAMES = {
    CHAT: "chats",
    COMPLETION: "continues text",
    EMBEDDING: "embeds texts",
    RERANK: "ranks documents",
    CLASSIFICATION: "classifies texts",
}
# What a conversation of each is.
SPACES = {
    CHAT: "this is a chat",
    COMPLETION: "here text is continued",
    EMBEDDING: "here texts are embedded",
    RERANK: "here documents are ranked",
    CLASSIFICATION: "here texts are classified",
}
# The Hub's pipeline tags. A text generator chats when it has a template.
_PIPELINES = {
    "sentence-similarity": EMBEDDING,
    "feature-extraction": EMBEDDING,
    "text-ranking": RERANK,
    "text-classification": CLASSIFICATION,
    "zero-shot-classification": CLASSIFICATION,
    "image-text-to-text": CHAT,
}
_EMBEDDING_GGUF = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
        "xlm-roberta",
    }
)
# llama.cpp's LLAMA_POOLING_TYPE_NONE and _RANK.
_UNPOOLED, _RANKS = 0, 4
_GENERATES = re.compile(r"CausalLM|ConditionalGeneration|LMHead|ForImageTextToText")
_CLASSIFIES = re.compile(r"ForSequenceClassification|ForTextClassification|RewardModel")
# What nobody here would know how to ask: neither text nor a chat that sees.
_OTHER = re.compile(
    r"^(Whisper|Speech|Moonshine|Musicgen|Bark|Vits|UNet|Autoencoder)|For(Audio|CTC|Depth|Image(?!TextToText)"
    r"|Instance|Keypoint|Mask(?!ed)|MultipleChoice|Object|Panoptic|QuestionAnswering|Semantic|Table|TextTo"
    r"|Token|Universal|Video|XVector|ZeroShot|Prediction)"
)
# A reranker that its makers keep as a language model says so in its name alone.
_RERANKER = re.compile(r"rerank", re.IGNORECASE)
_IMAGE_KEYS = ("image_token_id", "image_token_index", "img_token_id", "vision_start_token_id")
LABELS = 1000


@dataclass(frozen=True)
class Kind:
    """What a model is for. `labels` are a classifier's, by place."""

    task: str
    takes_images: bool = False
    labels: tuple[str, ...] = ()


def of_folder(config: Mapping[str, Any], modules: Any, template: str, name: str = "") -> Kind:
    """Of a folder of safetensors, by its config.json, template and name.

    `modules` is sentence-transformers' modules.json, None without one.
    """
    architectures = [str(one) for one in config.get("architectures") or []]
    if any(map(_CLASSIFIES.search, architectures)):
        return _classifier(config)
    if modules is not None or (architectures and not any(map(_GENERATES.search, architectures))):
        return Kind(EMBEDDING)
    if _RERANKER.search(name):
        return Kind(RERANK)
    if not template:
        return Kind(COMPLETION)
    return Kind(CHAT, takes_images=_sees(config))


def why_none(config: Mapping[str, Any]) -> str:
    """Why a model is for no task that can be asked here; "" where it is for one."""
    named = [str(one)[:80] for one in config.get("architectures") or []]
    if not named or not all(map(_OTHER.search, named)):
        return ""
    return f"{named[0]} is not served here: models read text, or text and pictures in a chat."


def read_at_once(configurations: Mapping[str, Any], context: int | None) -> int | None:
    """Tokens a folder's model reads of one text: of its `context`, what sentence-transformers cuts at."""
    given = configurations.get("sentence_bert_config.json")
    most = given.get("max_seq_length") if isinstance(given, Mapping) else None
    if type(most) is not int or most < 1:
        return context
    return min(most, context) if context else most


def pooling(configurations: Mapping[str, Any]) -> str:
    """How sentence-transformers makes one vector of a text's tokens: "mean", "cls", "last", …; "" untold."""
    given = configurations.get("1_Pooling/config.json")
    if not isinstance(given, Mapping):
        return ""
    modes = {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_lasttoken": "last",
        "pooling_mode_mean_tokens": "mean",
    }
    set_ = [key for key, value in given.items() if key.startswith("pooling_mode_") and value is True]
    if len(set_) == 1:
        return modes.get(set_[0], set_[0].removeprefix("pooling_mode_")[:40])
    return "several" if set_ else str(given.get("pooling_mode") or "")[:40]


def of_gguf(architecture: str, pooling: Any, template: str, projector: Path | None) -> Kind:
    """Of a GGUF file: its architecture and pooling type, its template, and the projector beside it."""
    if pooling == _RANKS:
        return Kind(RERANK)
    if architecture in _EMBEDDING_GGUF or pooling not in (None, _UNPOOLED):
        return Kind(EMBEDDING)
    return Kind(CHAT, takes_images=projector is not None) if template else Kind(COMPLETION)


def of_pipeline(tag: str | None, template: str = "") -> Kind:
    """Of a model known by its pipeline tag alone, before its files are here."""
    task = _PIPELINES.get(tag or "", CHAT if template else COMPLETION)
    return Kind(task, takes_images=tag == "image-text-to-text")


def projector(path: Path) -> Path | None:
    """What lets a GGUF model see: the first mmproj file in its folder."""
    found = sorted(path.parent.glob("mmproj*.gguf")) if path.suffix == ".gguf" else []
    return found[0] if found else None


def _classifier(config: Mapping[str, Any]) -> Kind:
    """One score is a reranker's (a cross-encoder); several are labels."""
    named = config.get("id2label")
    places = {int(key): str(text)[:80] for key, text in named.items()} if named and _is_labels(named) else {}
    count = len(places) or config.get("num_labels")
    if count == 1:
        return Kind(RERANK)
    return Kind(CLASSIFICATION, labels=tuple(places[key] for key in sorted(places)))


def _is_labels(named: Any) -> bool:
    if not isinstance(named, Mapping) or len(named) > LABELS:
        return False
    return all(isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 6 for key in named)


def _sees(config: Mapping[str, Any]) -> bool:
    return isinstance(config.get("vision_config"), Mapping) or any(key in config for key in _IMAGE_KEYS)
