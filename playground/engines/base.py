"""The engine contract: a command line that ends up speaking OpenAI HTTP on loopback.

Knows nothing about Django.

An adapter is one file: it names its options, judges a model, estimates memory, builds a command, proves
readiness with a real request, and declares where the engine departs from the OpenAI API. It never imports the
engine itself; what must run inside the engine's environment is a launcher file in `launchers/`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
from pydantic import BaseModel, ConfigDict, Field

from .pieces import Token

LAUNCHERS = Path(__file__).parent / "launchers"

ALLOWED: frozenset[tuple[str, str]] = frozenset(
    {
        ("GET", "/v1/models"),
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/props"),
        ("POST", "/apply-template"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/render"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/rerank"),
        ("POST", "/v1/score"),
        ("POST", "/classify"),
        ("POST", "/v1/audio/transcriptions"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
    }
)
"""Every (method, path) that ever reaches an engine from outside its node.

The relay answers 404 to all others.
"""

PATHS: Mapping[str, str] = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "embedding": "/v1/embeddings",
    "rerank": "/v1/rerank",
    "classification": "/classify",
}
"""What a model of each task is asked by."""


class ReasonCode(StrEnum):
    """Why a start or a replica failed.

    Every failure is sorted into one; a sentence for people goes with it.
    """

    OUT_OF_MEMORY = "out_of_memory"
    CONTEXT_TOO_LONG = "context_too_long"
    GATED = "gated"
    UNKNOWN_OPTION = "unknown_option"
    PORT_TAKEN = "port_taken"
    DRIVER_MISSING = "driver_missing"
    CRASHED = "crashed"
    BAD_WEIGHTS = "bad_weights"
    LOAD_TIMEOUT = "load_timeout"
    FROZEN = "frozen"
    RUNNER_DIED = "runner_died"
    NODE_LOST = "node_lost"
    NODE_STOPPING = "node_stopping"
    JOB_FAILED = "job_failed"
    NO_ROOM = "no_room"
    SUPERSEDED = "superseded"
    SERVER_REFUSED = "server_refused"
    ASKED = "asked"
    IDLE = "idle"


@dataclass(frozen=True)
class Reason:
    """A failure in a code for programs and one sentence that tells a person what to do."""

    code: ReasonCode
    text: str


@dataclass(frozen=True)
class Hardware:
    """What a node offers. Bytes; `gpus` empty on a CPU node."""

    cores: int
    memory_bytes: int
    gpus: tuple["Gpu", ...] = ()

    @property
    def build(self) -> str:
        """Which build of an engine fits here: "cuda" or "cpu"."""
        return "cuda" if self.gpus else "cpu"


@dataclass(frozen=True)
class Gpu:
    index: int
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class LocalAdapter:
    """LoRA weights as they lie on the node: a PEFT folder or a .gguf file. Served under `name`."""

    name: str
    path: Path
    rank: int | None = None


@dataclass(frozen=True)
class LocalModel:
    """A model as it lies on the node's disk, and what the catalogue knows of it.

    `path` is a .gguf file or a folder. `trusts_code`: an administrator allowed this commit's own code.
    """

    name: str
    path: Path
    kind: str
    task: str = "chat"
    size_bytes: int | None = None
    dtype: str = ""
    architecture: str = ""
    parameters: int | None = None
    context_length: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    takes_images: bool = False
    trusts_code: bool = False
    adapters: tuple[LocalAdapter, ...] = ()
    draft: "LocalModel | None" = None
    """A smaller model that guesses ahead, where an option names one."""


@dataclass(frozen=True)
class Verdict:
    """Whether an engine can serve a model; `why` is shown when it cannot.

    `kind` is the format it would load.
    """

    ok: bool
    why: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Estimate:
    """Bytes an engine will need, over all its GPUs together.

    `unknown` names what could not be worked out; it is shown, never guessed.
    """

    weights: int | None
    kv_cache: int | None
    overhead: int
    unknown: tuple[str, ...] = ()
    gpus: int = 1
    """Devices the bytes spread over evenly."""
    context: int | None = None
    """Tokens of one request that `kv_cache` is reckoned for."""
    kv_tokens: int | None = None
    """Tokens that `kv_cache` holds, over all requests."""
    limit: int | None = None
    """Bytes it allows itself: a share of the GPUs' memory. It will take them all, whatever it needs."""
    grows: bool = False
    """The KV cache grows as answers do: none of it is taken yet when it gets ready."""
    later: int = 0
    """Bytes of `overhead` that it only takes as it serves: prompts kept in RAM."""
    trouble: str = ""
    """Why it would not start however much is free, and what to change."""

    @property
    def total(self) -> int | None:
        if self.weights is None or self.kv_cache is None:
            return None
        return self.weights + self.kv_cache + self.overhead

    @property
    def at_once(self) -> int | None:
        """Requests of the whole context that the KV cache holds together."""
        return self.kv_tokens // self.context if self.kv_tokens and self.context else None

    @property
    def takes(self) -> int | None:
        """Bytes it will hold: all it allows itself, where that is more than it needs."""
        return None if self.total is None else max(self.total, self.limit or 0)


@dataclass(frozen=True)
class Reported:
    """What a ready engine says it took, by its own log or metrics; None where it does not say."""

    weights_bytes: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_tokens: int | None = None


@dataclass(frozen=True)
class Requirements:
    """What `engines install` puts into the engine's environment."""

    python: tuple[str, ...]
    """Versions that work, best first: ("3.11", "3.12")."""
    packages: tuple[str, ...]
    """Requirement lines; the engine's own, pinned, first."""
    remove: tuple[str, ...] = ()
    """Packages uninstalled afterwards, with the reason in the adapter."""
    no_deps: tuple[str, ...] = ()
    """Requirement lines installed without their dependencies."""
    overrides: tuple[str, ...] = ()
    system_python: bool = False
    """Needs a distribution's Python (shared libpython), not one built static."""


@dataclass(frozen=True)
class Quirks:
    """Where an engine departs from the OpenAI API.

    The gateway and the playground read it instead of its name.
    """

    ignored: frozenset[str] = frozenset()
    """Parameters it accepts and does nothing with."""
    refused: frozenset[str] = frozenset()
    """Parameters it answers with an error."""
    sends_done: bool = True
    """Ends a stream with `data: [DONE]`."""
    usage_chunk: bool = True
    """Sends usage as a last chunk with `choices: []` when asked by stream_options.include_usage."""
    usage_on_content: bool = False
    """Puts usage on the last content chunk, asked or not."""
    renames_model: bool = False
    """Answers with another model name than `served_name`."""
    whole_by_stream: bool = False
    """Notices a client that left only while it streams: whole answers are put together from a stream."""
    takes_key: bool = True
    """Checks a bearer key itself."""
    running_metric: str = ""
    """Prometheus name of the number of requests running now; an abort shows as its fall to zero.

    Empty: none.
    """
    waiting_metric: str = ""
    """Prometheus name of the number of requests queued."""
    kv_cache_metric: str = ""
    """Prometheus name of the share of the KV cache in use, 0 to 1."""
    progress_metrics: tuple[str, ...] = ()
    """Counters that rise while it works; flat ones are one of the three signs of a frozen engine."""
    continuous_usage: Mapping[str, Any] = field(default_factory=dict)
    """What a streamed request adds to get the usage so far with each chunk: it counts stopped answers."""
    images: bool = False
    """Takes images in the messages of a chat, as data: URLs, where its model reads them."""
    scores_embeddings: bool = False
    """Ranks and scores with a model that embeds, too, by the cosine."""
    routes: frozenset[tuple[str, str]] = frozenset(
        {("POST", "/v1/chat/completions"), ("POST", "/v1/completions")}
    )


@dataclass(frozen=True)
class Rendered:
    """What the model really reads: the prompt after its template, and its token ids; None where untold.

    `sampling` are the parameters the engine samples by, by OpenAI names, defaults of engine and model
    included.
    """

    prompt: str | None
    token_ids: tuple[int, ...] | None
    sampling: Mapping[str, Any] = field(default_factory=dict)


# Sampling parameters that a person compares between engines.
SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_tokens",
)


Ask = Callable[[str, str, Mapping[str, Any] | None], Awaitable[dict[str, Any]]]
"""`await ask("POST", "/tokenize", {…})`: one small question to a running engine, answered by an object."""


# The least each task can be asked.
_PROBES: Mapping[str, Mapping[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1},
    "completion": {"prompt": "Hi", "max_tokens": 1},
    "embedding": {"input": "ready"},
    "rerank": {"query": "ready", "documents": ["ready"]},
    "classification": {"input": "ready"},
}


class NotReady(Exception):
    """The probe failed; the text says what the engine answered."""


class EngineOptions(BaseModel):
    """Base of every `Options`: typed, ranged, described.

    Unknown keys are refused; None means the engine's default.

    Each field carries `title`, `description`, its range, and `json_schema_extra={"group": "Memory", "flag":
    "--x"}`: the form is made from these.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def set_values(self) -> dict[str, Any]:
        """What was set, by field; what is None is the engine's default and left out."""
        return self.model_dump(exclude_none=True)

    def only(self, build: str) -> list[str]:
        """The titles of what was set that another build has and this one has not."""
        found = []
        for name in self.set_values():
            field = type(self).model_fields[name]
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("build", build) != build:
                found.append(str(field.title))
        return found

    def arguments(self, skip: frozenset[str] = frozenset()) -> list[str]:
        """The set fields as an argument list by their flags; a switch that is off uses its `off` flag."""
        line: list[str] = []
        for name, value in self.set_values().items():
            extra = type(self).model_fields[name].json_schema_extra
            if name in skip or not isinstance(extra, dict) or not extra.get("flag"):
                continue
            if isinstance(value, bool):
                line += [str(extra["flag"])] if value else [str(extra["off"])] if extra.get("off") else []
            else:
                line += [str(extra["flag"]), str(value)]
        return line


@dataclass(frozen=True)
class Needs:
    """An option that means nothing unless another is set: to one of `values`, or, without any, at all."""

    option: str
    other: str
    why: str
    values: tuple[Any, ...] = ()


def chosen(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of `names` that a generation_config.json sets."""
    return {name: config[name] for name in names if config.get(name) is not None}


def unmet(options: Mapping[str, Any], needs: Sequence[Needs]) -> dict[str, str]:
    """A sentence for each option of those set whose need is not met; one that is off needs nothing."""
    found = {}
    for need in needs:
        if options.get(need.option) in (None, False):
            continue
        beside = options.get(need.other)
        if beside not in need.values if need.values else not beside:
            found[need.option] = need.why
    return found


def disordered(options: Mapping[str, Any], pairs: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """A sentence for each first of (least, most, sentence) that is above the second."""
    set_both = [(least, most, why) for least, most, why in pairs if {least, most} <= options.keys()]
    return {least: why for least, most, why in set_both if options[least] > options[most]}


GROUPS = (
    "Context",
    "Memory",
    "Quantisation",
    "Parallelism",
    "Speed",
    "Speculative decoding",
    "LoRA",
    "Tools and reasoning",
    "Structured output",
    "Output",
    "Images",
    "Embeddings",
)
"""How people think of options, in the order every form has them; any other group comes after."""


def option(title: str, description: str, group: str, flag: str = "", off: str = "", **more: Any) -> Any:
    """One field of an `Options`: unset by default, with what the form and the command line need.

    `more` are its limits; `build="cuda"`: only that build has it; `model=True`: its value is a model of the
    catalogue, by number, and the command gets that model's files as `LocalModel.draft`.
    """
    extra: dict[str, Any] = {"group": group, "flag": flag} | ({"off": off} if off else {})
    extra |= {key: more.pop(key) for key in ("build", "model") if key in more}
    return Field(None, title=title, description=description, json_schema_extra=extra, **more)


Taken = tuple[str, ...] | type[int] | type[float] | None
"""What an extra argument takes: one of some words, a number, or nothing, being a switch."""


class Engine(ABC):
    """One serving program."""

    name: ClassVar[str]
    """As in commands and rows: "vllm"."""
    title: ClassVar[str]
    """As shown: "vLLM"."""
    kinds: ClassVar[tuple[str, ...]]
    """Formats it loads, best first: ("gguf",)."""
    Options: ClassVar[type[EngineOptions]]
    quirks: ClassVar[Quirks]
    versions: ClassVar[Mapping[str, str]]
    """Version installed by default, for each build: {"cpu": "0.32.0", "cuda": "0.33.0"}."""
    is_elsewhere: ClassVar[bool] = False
    """Its models are on somebody else's servers: it loads none here, and those are for it alone."""
    adapter_kinds: ClassVar[tuple[str, ...]] = ()
    """Forms of LoRA weights it attaches, best first: ("safetensors",). Empty: it attaches none."""
    also: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Other versions that ran with this adapter, newest first, for each build."""
    extra_flags: ClassVar[Mapping[str, Taken]] = {}
    """Arguments that an administrator may add: neither options nor dangerous, and what each takes.

    Nothing in it names a path, an address, code, or a variable.
    """
    context_option: ClassVar[str] = ""
    """The option that sets the tokens of one request: "max_model_len". Empty: it has none."""
    split_options: ClassVar[tuple[str, ...]] = ()
    """Options whose product is the number of GPUs it takes, tensor parallel first."""
    weighing_options: ClassVar[tuple[str, ...]] = ()
    """Options of a few named choices that change what it takes; the Start form tells by how much."""

    @abstractmethod
    def requirements(self, build: str, version: str) -> Requirements: ...

    @abstractmethod
    def supports(self, model: LocalModel) -> Verdict: ...

    @abstractmethod
    def memory(self, model: LocalModel, options: EngineOptions, hardware: Hardware) -> Estimate:
        """What it will take, worked out with `estimates`. `hardware.gpus` are those it would be given."""

    def gpus(self, options: EngineOptions) -> int:
        """How many GPUs the options ask for."""
        return math.prod(getattr(options, name) or 1 for name in self.split_options)

    @abstractmethod
    def command(
        self,
        environment: Path,
        model: LocalModel,
        options: EngineOptions,
        port: int,
        served_name: str,
        hardware: Hardware,
    ) -> list[str]:
        """The argument list.

        `environment` is the engine's virtual environment (its python is bin/python in it).
        """

    def line(self, *given: Any, extra: Sequence[str] = ()) -> list[str]:
        """`command` of the same arguments, with what an administrator added behind it."""
        return [*self.command(*given), *extra]

    @abstractmethod
    def environment(self, options: EngineOptions, key: str, home: Path) -> dict[str, str]:
        """Variables for the engine's process.

        The key goes here, never into the command; caches go below `home`.
        """

    def attaches(self, kind: str) -> Verdict:
        """Whether it attaches LoRA weights of that form; `why` is shown when it does not."""
        if kind in self.adapter_kinds:
            return Verdict(True, kind=kind)
        if not self.adapter_kinds:
            return Verdict(False, f"{self.title} attaches no LoRA adapters.")
        forms = " or ".join(
            {"gguf": "GGUF files", "safetensors": "PEFT folders"}[k] for k in self.adapter_kinds
        )
        return Verdict(False, f"{self.title} attaches LoRA adapters from {forms} only.")

    def selecting(self, place: int, name: str) -> dict[str, Any]:
        """What a request says, over its own, to be answered by the adapter `name`.

        `place` is its place among the model's adapters.
        """
        return {"model": name}

    def attaching(self, adapter: LocalAdapter) -> tuple[str, dict[str, Any]] | None:
        """The path and body by which an engine that runs loads one more; None: only at a start.

        Sent on the engine's own node only: no relay and no gateway lets it through.
        """
        return None

    def detaching(self, adapter: LocalAdapter) -> tuple[str, dict[str, Any]] | None:
        """The same by which it lets one go."""
        return None

    def attaches_running(self, options: EngineOptions) -> Verdict:
        """Whether, started with these options, it attaches and detaches adapters while it runs.

        An option called `runtime_lora` is what allows it.
        """
        field = type(options).model_fields.get("runtime_lora")
        if field is None:
            return Verdict(False, f"{self.title} attaches adapters only when it starts.")
        if not getattr(options, "runtime_lora", None):
            return Verdict(False, f"It was started without the option “{field.title}”.")
        return Verdict(True)

    def objections(self, options: Mapping[str, Any]) -> dict[str, str]:
        """A sentence for each option, of those set, that means nothing beside the others."""
        return {}

    def explain(self, log: list[str], exit_code: int | None) -> Reason | None:
        """Sort a failure from the last log lines; None leaves it to the common rules in `reasons.py`."""
        return None

    def progress(self, line: str) -> str | None:
        """How far loading is, in words, when this log line says so: "loading weights 40 %"."""
        return None

    def reported(self, log: list[str]) -> Reported:
        """What it took, read from the log of a start that got ready."""
        return Reported()

    async def render(self, ask: Ask, body: Mapping[str, Any]) -> Rendered | None:
        """How the engine renders a chat request; None where it cannot be asked."""
        return None

    async def tokenize(self, ask: Ask, served_name: str, text: str) -> int | None:
        """How many tokens the engine makes of `text`; None where it cannot be asked."""
        if ("POST", "/tokenize") not in self.quirks.routes:
            return None
        body = {"model": served_name, "prompt": text, "content": text, "add_special_tokens": False}
        answer = await ask("POST", "/tokenize", body)
        tokens = answer.get("tokens")
        return len(tokens) if isinstance(tokens, list) else None

    async def pieces(self, ask: Ask, served_name: str, text: str) -> list[Token] | None:
        """The tokens it makes of `text`, each with its bytes; None where it does not tell them."""
        return None

    def tells_logprobs(self, options: Mapping[str, Any]) -> Verdict:
        """Whether, started with these options, it tells log-probabilities as the model gave them."""
        if "logprobs" in self.quirks.ignored:
            return Verdict(False, f"{self.title} gives no log-probabilities.")
        return Verdict(True)

    def model_defaults(
        self, config: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """What of a model's generation_config.json it samples by where a request does not say.

        By OpenAI names; None: it does not read that file.
        """
        return None

    async def probe(
        self, session: aiohttp.ClientSession, base_url: str, key: str, served_name: str, task: str
    ) -> None:
        """One real request of the model's task, one token long. Raises NotReady with what was wrong."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        path, body = PATHS[task], {"model": served_name, **_PROBES[task]}
        async with session.post(base_url + path, json=body, headers=headers) as answer:
            if answer.status != 200:
                raise NotReady(f"{path} answered {answer.status}: {(await answer.text())[:300]}")
            data = await answer.json(content_type=None)
            if not isinstance(data, dict) or not any(
                data.get(name) for name in ("choices", "data", "results")
            ):
                raise NotReady(f"{path} answered without a result")
