"""The lines of a batch input, judged as OpenAI judges them: every error with its code and line. Pure.

What is sent to the engine is the dataset's matter; here it is found out whether the whole file may run at
all, and which model all of it asks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playground import lines, policy, pooling, reading

# As many errors as a client is told.
SHOWN = 100


@dataclass
class LineError(Exception):
    """What is wrong with one line, or with all of them."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def facts(self) -> dict[str, Any]:
        """OpenAI's batch error."""
        return {"code": self.code, "message": self.message, "line": self.line, "param": self.param}


@dataclass
class Judged:
    """What a file came to. Where there are `errors` nothing of it runs."""

    model: str = ""
    rows: int = 0
    errors: list[LineError] = field(default_factory=list)


def judge(path: Path, endpoint: str) -> Judged:
    """Read every line, until SHOWN are wrong."""
    judged, ids = Judged(), dict[str, int]()
    with path.open("rb") as file:
        if file.read(4).startswith(lines.UTF_16_32):
            text = "The file is UTF-16 or UTF-32 text: save it as UTF-8."
            judged.errors.append(LineError("invalid_encoding", text, 1))
            return judged
    for number, line in _written(path):
        judged.rows += 1
        if judged.rows > reading.MAX_ROWS:
            text = f"The file has more than {reading.MAX_ROWS:,} lines, which are the most."
            judged.errors.append(LineError("too_many_lines", text, number))
            break
        try:
            _judge_line(judged, ids, number, line, endpoint)
        except LineError as error:
            judged.errors.append(error)
        if len(judged.errors) >= SHOWN:
            break
    if not judged.rows:
        judged.errors.append(LineError("empty_file", "The file has no lines."))
    return judged


def _written(path: Path) -> Iterator[tuple[int, str | lines.BadLine]]:
    """The lines that say something."""
    for number, line in reading.enumerate_lines(path):
        if isinstance(line, lines.BadLine) or line.strip():
            yield number, line


def _judge_line(
    judged: Judged, ids: dict[str, int], number: int, line: str | lines.BadLine, endpoint: str
) -> None:
    if isinstance(line, lines.BadLine):
        raise LineError("invalid_line", line.why, number)
    try:
        data = policy.loads(line.strip().encode())
    except policy.BadRequest as bad:
        raise LineError("invalid_json_line", bad.message.replace("The body", "The line", 1), number) from bad
    _judge_id(ids, number, data.get("custom_id"))
    if data.get("method") != "POST":
        raise LineError("invalid_method", "method must be POST.", number, "method")
    if data.get("url") != endpoint:
        raise LineError("mismatched_url", f"url must be {endpoint}, as the batch's endpoint.", number, "url")
    body = data.get("body")
    if not isinstance(body, dict):
        raise LineError("invalid_body", "body must be an object: the request.", number, "body")
    _judge_model(judged, number, body.get("model"))
    _judge_body(number, body, endpoint)


def _judge_id(ids: dict[str, int], number: int, custom_id: Any) -> None:
    if custom_id is None:
        raise LineError("missing_required_parameter", "custom_id is missing.", number, "custom_id")
    if not isinstance(custom_id, str) or not custom_id.strip() or len(custom_id) > reading.MAX_ID:
        text = f"custom_id must be text of 1 to {reading.MAX_ID} characters."
        raise LineError("invalid_custom_id", text, number, "custom_id")
    if (before := ids.setdefault(custom_id, number)) != number:
        text = f"custom_id stands in line {before} too."
        raise LineError("duplicate_custom_id", text, number, "custom_id")


def _judge_model(judged: Judged, number: int, model: Any) -> None:
    if not isinstance(model, str) or not 0 < len(model) <= 200:
        raise LineError("missing_model", "body names no model.", number, "body.model")
    judged.model = judged.model or model
    if model != judged.model:
        text = "Every line must name the same model as the first: make a batch for each."
        raise LineError("mismatched_model", text, number, "body.model")


def _judge_body(number: int, body: dict[str, Any], endpoint: str) -> None:
    if body.get("stream"):
        text = "A batch's answers are whole: leave stream out."
        raise LineError("unsupported_parameter", text, number, "body.stream")
    if endpoint == reading.CHAT and body.get("prompt") is not None:
        text = "Lines of a batch name no prompt of the library: write its messages out."
        raise LineError("unsupported_parameter", text, number, "body.prompt")
    try:
        if endpoint == reading.EMBEDDINGS:
            pooling.check(body, "embedding")
        else:
            policy.check(body, chat=endpoint == reading.CHAT)
    except policy.BadRequest as bad:
        param = f"body.{bad.param}" if bad.param else "body"
        raise LineError(bad.code or "invalid_request", bad.message, number, param) from bad
