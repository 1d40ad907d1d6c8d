"""The OpenAI surface in words: which routes exist, what a request must look like, and the one error shape.

Knows nothing about keys, replicas or connections.
"""

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from endpoints import responses
from playground import kinds, policy, pooling
from playground.engine_client import EngineError, Target
from playground.engines.base import Quirks

# (method, raw path) → what is asked. Compared byte for byte: nothing is decoded.
ROUTES: Mapping[tuple[str, bytes], str] = {
    ("POST", b"/v1/chat/completions"): "chat",
    ("POST", b"/v1/responses"): "responses",
    ("POST", b"/v1/completions"): "completion",
    ("POST", b"/v1/embeddings"): "embedding",
    ("POST", b"/v1/rerank"): "rerank",
    ("POST", b"/v1/score"): "score",
    ("POST", b"/v1/classify"): "classification",
}
# Where engines have a route at another path than this API.
ENGINE_PATHS: Mapping[bytes, str] = {b"/v1/classify": "/classify"}
GENERATING = frozenset({"chat", "completion"})
# What takes a release's defaults; and what may name a prompt of the library.
ANSWERING = GENERATING | {"responses"}
PROMPTED = frozenset({"chat", "responses"})
# The tasks of the models that can be asked so. A reranker is a classifier of one label.
SERVED_BY: Mapping[str, frozenset[str]] = {
    "chat": GENERATING,
    "completion": GENERATING,
    "responses": frozenset({"chat"}),
    "embedding": frozenset({"embedding"}),
    "rerank": frozenset({"rerank"}),
    "score": frozenset({"rerank"}),
    "classification": frozenset({"classification", "rerank"}),
}
# What an engine's word about the context is about.
_LONG = {
    "chat": "messages",
    "responses": "input",
    "completion": "prompt",
    "rerank": "documents",
    "score": "text_2",
}
MODELS = b"/v1/models"

BODY_LIMIT = 16 * 1024 * 1024
HEADER_COUNT = 100
HEADER_BYTES = 64 * 1024
MODEL_NAME = 200
# Larger answers full of vectors are passed on unread but for their usage, which stands at an end.
PARSED = 1 << 20
SKIMMED = 4096

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST = re.compile(rb"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_NO_JSON = re.compile(rb"[\[,:\s]-?(?:NaN|Infinity)[\],}\s]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")

# Made once: `json.dumps` makes an encoder a call.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode = json.JSONDecoder(parse_constant=lambda name: _no_number(name)).decode

KINDS = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    403: "permission_error",
    404: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    409: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
}


@dataclass
class Refusal(Exception):
    """An answer other than the one asked for: a status and the fields of the error object."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """`{"error": {"message", "type", "param", "code"}}`."""
        kind = KINDS.get(self.status, "server_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


def unknown_route(method: str) -> Refusal:
    return Refusal(404, f"There is nothing at this address for {plain(method, 10)}.", "unknown_url")


def no_such_model(name: str) -> Refusal:
    return Refusal(404, f"No model is called {plain(name, 80)!r} here.", "model_not_found", "model")


def unavailable(message: str, retry_after_s: int = 5, code: str = "no_capacity") -> Refusal:
    return Refusal(503, message, code, headers={"retry-after": str(retry_after_s)})


def bad_engine() -> Refusal:
    return Refusal(502, "The engine gave an answer that cannot be passed on.", "bad_engine_answer")


def headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The request's headers by lower-case name. Refuses a flood of them, and doubles of those that decide."""
    found: dict[bytes, bytes] = {}
    count = size = 0
    for name, value in raw:
        count += 1
        size += len(name) + len(value)
        if name in found and name in _ONCE:
            raise Refusal(
                400, f"The header {name.decode('latin-1')} may be sent only once.", "duplicate_header"
            )
        found[name] = value
    if count > HEADER_COUNT or size > HEADER_BYTES:
        raise Refusal(431, "Too many or too large headers.", "headers_too_large")
    if not _HOST.fullmatch(found.get(b"host", b"")):
        raise Refusal(400, "The Host header is missing or malformed.", "bad_host")
    return found


_ONCE = frozenset(
    {b"host", b"authorization", b"x-api-key", b"content-length", b"content-type", b"idempotency-key"}
)


def request_id(given: bytes | None) -> str:
    """The client's own id when it is a harmless token, else a new one."""
    if given and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return "req_" + secrets.token_hex(12)


def secret(found: Mapping[bytes, bytes]) -> str:
    """The key a request carries, by either header but not by both."""
    bearer, plain = found.get(b"authorization"), found.get(b"x-api-key")
    if bearer is not None and plain is not None:
        raise Refusal(400, "Send the key as Authorization or as x-api-key, not as both.", "two_keys")
    if bearer is not None:
        scheme, _, value = bearer.partition(b" ")
        return value.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""
    return plain.decode("latin-1") if plain is not None else ""


def is_name(token: str) -> bool:
    """Whether a file or a batch may be called so; what is not is not looked up."""
    return bool(_NAME.fullmatch(token))


def wrong_key() -> Refusal:
    return Refusal(
        401,
        "Incorrect API key. Send a valid one as Authorization: Bearer.",
        "invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )


def body_length(found: Mapping[bytes, bytes]) -> int | None:
    """The length announced; None when the body comes in chunks. Refuses what will not be read."""
    if found.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal(415, "Compressed bodies are not accepted.", "unsupported_encoding")
    if b"json" not in found.get(b"content-type", b"application/json").lower():
        raise Refusal(415, "Send JSON, with Content-Type: application/json.", "unsupported_media_type")
    announced = found.get(b"content-length")
    if announced is None:
        return None
    length = int(announced)
    if length > BODY_LIMIT:
        raise too_large()
    return length


def too_large() -> Refusal:
    return Refusal(413, f"The body is larger than {BODY_LIMIT // 2**20} MiB.", "body_too_large")


def parse(raw: bytes, kind: str) -> dict[str, Any]:
    """The body as JSON within the request policy, with a model named."""
    try:
        body = policy.loads(raw)
        _check(body, kind)
    except policy.BadRequest as bad:
        raise Refusal(400, bad.message, bad.code, bad.param) from bad
    model = body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= MODEL_NAME:
        raise Refusal(400, "Name an endpoint in model.", "missing_model", "model")
    return body


def _check(body: dict[str, Any], kind: str) -> None:
    """A body within the policy; one that names a prompt needs nothing else to say."""
    said = body
    if kind in PROMPTED and body.get("prompt") is not None:
        words = "messages" if kind == "chat" else "input"
        said = {name: value for name, value in body.items() if name != "prompt"}
        said[words] = body.get(words) or [{"role": "user", "content": "…"}]
    if kind == "responses":
        responses.check(said)
    elif kind in GENERATING:
        policy.check(said, chat=kind == "chat")
    else:
        pooling.check(said, kind)


def read_answer(raw: bytes, kind: str) -> dict[str, Any]:
    """An engine's whole answer; ValueError where it is no JSON object, or holds what only Python takes.

    Of megabytes of numbers only the usage: reading them all would hold up every other request.
    """
    if kind == "embedding" and len(raw) > PARSED:
        return _skimmed(raw)
    answer = _decode(raw.decode())
    if not isinstance(answer, dict):
        raise ValueError("no object")
    return answer


def _skimmed(raw: bytes) -> dict[str, Any]:
    ends = raw[:1] + raw[-16:].rstrip()[-1:]
    if ends != b"{}" or ((b"NaN" in raw or b"Infinity" in raw) and _NO_JSON.search(raw)):
        raise ValueError("no object of numbers")
    found = _USAGE.search(raw, max(0, len(raw) - SKIMMED)) or _USAGE.search(raw, 0, SKIMMED)
    return {"usage": _decode(found[1].decode())} if found else {}


def answer_too_large(kind: str) -> Refusal:
    """Vectors are as many as were asked for; anything else of that size is an engine gone wrong."""
    if kind != "embedding":
        return bad_engine()
    text = "The vectors are too many for one answer: send fewer inputs, or ask for encoding_format base64."
    return Refusal(400, text, "answer_too_large", "input")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def defaults(release: Mapping[str, Any], prompt: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What counts where the client says nothing: the prompt's parameters over the release's sampling."""
    if kind not in ANSWERING:
        return {}
    merged = {**release, **prompt}
    if len({"max_tokens", "max_completion_tokens"} & merged.keys()) == 2:
        merged.pop("max_tokens" if "max_completion_tokens" in prompt else "max_completion_tokens")
    return responses.parameters(merged) if kind == "responses" else merged


def prepare(
    body: dict[str, Any],
    sampling: Mapping[str, Any],
    target: Target,
    quirks: Quirks,
    *,
    gathered: bool,
    kind: str = "chat",
) -> bytes:
    """What the engine is sent: the client's values over the release's defaults, usage always asked.

    Which adapter answers is ours to say: a client names it by the model alone. `gathered` asks for a stream
    whatever the client wants: its answer is put together here.
    """
    merged = {**sampling, **body} if sampling else dict(body)
    for one, other in (("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")):
        if sampling and other in body and one not in body:
            merged.pop(one, None)
    merged |= {"model": target.served_name, **target.selects}
    if gathered:
        merged["stream"] = True
    if kind == "responses":
        merged["store"] = False
    elif merged.get("stream") and "stream_options" not in quirks.ignored:
        merged["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    return _encode(merged).encode()


def refuse_wrong_task(kind: str, path: str, task: str, quirks: Quirks) -> None:
    """Name why a model or its engine cannot be asked so."""
    by_cosine = quirks.scores_embeddings and task == "embedding" and kind in ("rerank", "score")
    if task not in SERVED_BY[kind] and not by_cosine:
        words = kinds.NAMES.get(task, f"is for {task}")
        raise Refusal(400, f"This model {words}; it does not serve this route.", "unsupported_route", "model")
    if ("POST", path) not in quirks.routes:
        raise Refusal(400, "This model's engine does not serve this route.", "unsupported_route", "model")


def refuse_unsupported(body: Mapping[str, Any], quirks: Quirks) -> None:
    """Name the first parameter the engine is known to refuse."""
    if quirks.refused and (named := sorted(quirks.refused & body.keys())):
        raise Refusal(
            400, f"The engine behind this model does not take {named[0]}.", "unsupported_parameter", named[0]
        )


def weight(size: int, body: Mapping[str, Any], kind: str) -> int:
    """Tokens a request of so many bytes may cost, roughly: a quarter of them and what it may generate."""
    if kind not in ANSWERING:
        return size // 4
    most = (body.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    return size // 4 + int(next(filter(None, most), 256))


def engine_failed(error: EngineError, kind: str) -> Refusal:
    """An engine's failure in our shape. Its text is told, cut short, only where it is about the request."""
    if error.code == "context_exceeded":
        param = _LONG.get(kind, "input")
        return Refusal(400, plain(error.text, 300), "context_length_exceeded", param)
    if error.code == "bad_request":
        return Refusal(400, plain(error.text, 300), "refused_by_engine")
    if error.code == "overloaded":
        return unavailable("The engine is busy. Try again shortly.", 1, "engine_busy")
    if error.code == "unreachable":
        return unavailable("The engine cannot be reached right now.", 2, "engine_unreachable")
    if error.code == "timeout":
        return Refusal(504, "The engine did not answer in time.", "engine_timeout")
    if error.code == "died_midway":
        return died_midway()
    return bad_engine() if error.code == "malformed" else Refusal(502, "The engine failed.", "engine_failed")


def died_midway() -> Refusal:
    return Refusal(502, "The engine stopped in the middle of its answer.", "died_midway")


def plain(text: str, limit: int) -> str:
    """Text fit for an error message: one line, no control characters, cut at `limit`."""
    text = _CONTROL.sub(" ", text.encode("utf-8", "replace").decode())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def model_object(name: str, created: int) -> dict[str, Any]:
    """One entry of the list. An adapter's names the model it goes on."""
    base, _, adapter = name.partition(":")
    parent = {"parent": base} if adapter else {}
    return {"id": name, "object": "model", "created": created, "owned_by": "slipway", **parent}
