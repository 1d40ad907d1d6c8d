"""What a person looks for among models: words and filters, as an address carries them.

Pure: from a query to what the Hub is asked, and to whether a row of the catalogue is meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from playground.hub import SORTS, Wish
from playground.models import Model

# Each with its words, the Hub's pipeline tag and the tags it must have, and the catalogue's task.
TASKS: Mapping[str, tuple[str, str, tuple[str, ...], str]] = {
    "chat": ("Chat", "text-generation", ("conversational",), Model.Task.CHAT),
    "completion": ("Completion", "text-generation", (), Model.Task.COMPLETION),
    "images": ("Chat with images", "image-text-to-text", (), Model.Task.CHAT),
    "embedding": ("Embedding", "feature-extraction", (), Model.Task.EMBEDDING),
    "similarity": ("Sentence similarity", "sentence-similarity", (), Model.Task.EMBEDDING),
    "rerank": ("Rerank", "text-ranking", (), Model.Task.RERANK),
    "classification": ("Classification", "text-classification", (), Model.Task.CLASSIFICATION),
}
# Parameters, in thousands of millions: from, and up to.
SIZES: Mapping[str, tuple[str, float, float]] = {
    "1": ("up to 1 B", 0, 1),
    "4": ("1 B to 4 B", 1, 4),
    "10": ("4 B to 10 B", 4, 10),
    "40": ("10 B to 40 B", 10, 40),
    "more": ("more than 40 B", 40, 100_000),
}
LICENCES = (
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "gemma",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "openrail",
    "other",
)
LIBRARIES = {
    "transformers": "transformers",
    "gguf": "GGUF",
    "safetensors": "safetensors",
    "sentence-transformers": "sentence-transformers",
}
GATED = {"no": "open only", "yes": "gated only"}
MOST_LETTERS = 100


@dataclass(frozen=True)
class Select:
    """One filter: `any` is what it says unset, empty where it always has a value."""

    name: str
    title: str
    any: str
    words: Mapping[str, str]
    value: str

    @property
    def choices(self) -> list[tuple[str, str]]:
        return list(self.words.items())


@dataclass(frozen=True)
class Looking:
    """What the search form holds; what it does not know is as if it were empty."""

    text: str = ""
    task: str = ""
    size: str = ""
    licence: str = ""
    library: str = ""
    gated: str = ""
    sort: str = "downloads"
    fits: bool = False

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Looking":
        def one(name: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
            value = query.get(name, "")
            return value if value in known else ""

        return cls(
            text=_plain(query.get("q", "")),
            task=one("task", TASKS),
            size=one("size", SIZES),
            licence=one("licence", LICENCES),
            library=one("library", LIBRARIES),
            gated=one("gated", GATED),
            sort=one("sort", SORTS) or "downloads",
            fits=query.get("fits", "") == "1",
        )

    @property
    def wish(self) -> Wish:
        """As the Hub is asked."""
        _, pipeline, tags, _ = TASKS.get(self.task, ("", "", (), ""))
        _, least, most = SIZES.get(self.size, ("", 0, 0))
        limits = [f"min:{_billions(least)}"] if least else []
        limits += [f"max:{_billions(most)}"] if most and most < 1000 else []
        return Wish(
            text=self.text,
            task=pipeline,
            tags=tags,
            licence=self.licence,
            library=self.library,
            gated={"yes": True, "no": False}.get(self.gated),
            size=",".join(limits),
            sort=self.sort,
        )

    def selects(self) -> list[Select]:
        """The filters, with their words."""
        tasks = {key: words for key, (words, *_) in TASKS.items()}
        sizes = {key: words for key, (words, *_) in SIZES.items()}
        licences = {name: name for name in LICENCES}
        return [
            Select("task", "Task", "any task", tasks, self.task),
            Select("size", "Size", "any size", sizes, self.size),
            Select("licence", "Licence", "any licence", licences, self.licence),
            Select("library", "Library", "any library", LIBRARIES, self.library),
            Select("gated", "Access", "open or gated", GATED, self.gated),
            Select("sort", "Order", "", SORTS, self.sort),
        ]

    def means(self, model: Model) -> bool:
        """Whether a row of the catalogue is what is looked for."""
        if any(word not in model.name.lower() for word in self.text.lower().split()):
            return False
        task = TASKS[self.task][3] if self.task else model.task
        sees = self.task != "images" or model.takes_images
        licence = self.licence in ("", model.licence)
        gated = self.gated in ("", "yes" if model.origin.get("gated") else "no")
        return (
            task == model.task and sees and licence and gated and self._size(model) and self._library(model)
        )

    def _size(self, model: Model) -> bool:
        if not self.size:
            return True
        _, least, most = SIZES[self.size]
        return model.parameters is not None and least <= model.parameters / 1e9 <= most

    def _library(self, model: Model) -> bool:
        kinds = {form.kind for form in model.formats.all()}
        if self.library in ("gguf", "safetensors"):
            return self.library in kinds
        return self.library in ("", model.origin.get("library", "transformers"))


def _plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable()).strip()[:MOST_LETTERS]


def _billions(amount: float) -> str:
    return f"{amount:g}B"
