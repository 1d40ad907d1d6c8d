"""What requests may contain: cases 9 to 14 of the attacks, as a table."""

import base64
import json
import struct
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground import policy

HELLO = [{"role": "user", "content": "Hello"}]
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 64, 32) + b"\x08\x06\x00\x00\x00"
HUGE_PNG = (
    b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 100_000, 100_000) + b"\x08\x06\x00\x00\x00"
)
GIF = b"GIF89a" + struct.pack("<HH", 10, 10)
JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10"
    + b"\0" * 14
    + b"\xff\xc0\x00\x11\x08"
    + struct.pack(">HH", 20, 30)
    + b"\3" * 10
)
WEBP = b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\x3f\0\0\x1f\0\0"


def data_url(kind: str, raw: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def with_image(url: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


def with_schema(schema: object) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return {"messages": HELLO, "response_format": form}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def refused(body: dict[str, Any], *, chat: bool = True) -> policy.BadRequest:
    before = time.monotonic()
    with pytest.raises(policy.BadRequest) as caught:
        policy.check(body, chat=chat)
    assert time.monotonic() - before < 1
    return caught.value


@pytest.mark.parametrize("name", ["n", "max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", [-1, 0, 10**30, 1.5, 1.0, "5", True, [1], {}])
def test_it_names_a_count_that_is_out_of_range(name: str, value: object) -> None:
    assert refused({"messages": HELLO, name: value}).param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", -0.1),
        ("top_p", float("nan")),
        ("presence_penalty", 3),
        ("top_logprobs", 21),
        ("seed", 2**64),
        ("stop", ["a"] * 17),
        ("stop", [""]),
        ("stream", "yes"),
        ("stream_options", {"include_usage": 1}),
        ("stream_options", {"other": True}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"x": 1}),
        ("tools", [{}]),
        ("messages", []),
        ("messages", "Hello"),
        ("messages", [{"role": "root", "content": "x"}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": [{"type": "text"}]}]),
    ],
)
def test_it_refuses_what_is_out_of_range(name: str, value: object) -> None:
    assert (refused({"messages": HELLO} | {name: value}).param or "").startswith(name)


@pytest.mark.parametrize(
    "name",
    [
        "chat_template",
        "n_discard",
        "api_base",
        "prompt_embeds",
        "logits_processors",
        "lora",
        "grammar",
        "id_slot",
    ],
)
def test_it_refuses_what_reaches_into_the_engine(name: str) -> None:
    problem = refused({"messages": HELLO, name: "x"})
    assert (problem.param, problem.code) == (name, "unsupported_parameter")


def test_it_takes_only_known_template_arguments() -> None:
    policy.check({"messages": HELLO, "chat_template_kwargs": {"enable_thinking": False}}, chat=True)
    assert refused({"messages": HELLO, "chat_template_kwargs": {"chat_template": "{{ x }}"}})
    assert refused({"messages": HELLO, "chat_template_kwargs": {"enable_thinking": [[]]}})


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://2852039166/",
        "http://[::ffff:169.254.169.254]/",
        "https:\\\\169.254.169.254\\x",
        "https://example.org/cat.png",
        "file:///etc/passwd",
        "DATA:text/html,x",
        "",
        None,
        7,
        data_url("svg+xml", b"<svg/>"),
        data_url("jp2", b"\0\0\0\x0cjP  "),
        data_url("png", b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 40),
        data_url("png", HUGE_PNG),
        data_url("gif", PNG),
        data_url("jpeg", b"\xff\xd8\xff"),
        data_url("webp", b"RIFF"),
        data_url("png", PNG)[:-3] + "*",
    ],
)
def test_it_refuses_images_that_are_remote_huge_or_not_what_they_say(url: object) -> None:
    assert "image_url" in str(refused(with_image(url)).param)


@pytest.mark.parametrize(("kind", "raw"), [("png", PNG), ("gif", GIF), ("jpeg", JPEG), ("webp", WEBP)])
def test_it_takes_small_inline_images(kind: str, raw: bytes) -> None:
    policy.check(with_image(data_url(kind, raw)), chat=True)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": "http://10.0.0.1/"}},
        {"type": "audio_url", "audio_url": {"url": "http://10.0.0.1/"}},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"image_url": "http://10.0.0.1/"},
        {"type": "input_audio", "input_audio": {"data": "http://10.0.0.1/"}},
        "text",
    ],
)
def test_it_refuses_other_ways_to_make_an_engine_fetch(part: object) -> None:
    assert refused({"messages": [{"role": "user", "content": [part]}]}).param


@pytest.mark.parametrize(
    "schema",
    [
        nested(1000),
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"$ref": "https://example.org/schema.json"},
        {"$ref": "#/nowhere"},
        {"type": "string", "pattern": "(a+)+$"},
        {"type": "string", "pattern": "(.*a){20}"},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "a{1,100000}"},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "string", "pattern": r"(a)\1"},
        {"type": "string", "pattern": "x" * 5000},
        {"type": "object", "patternProperties": {"(a*)*": {}}},
        {"type": "array", "minItems": 10**9},
        {"anyOf": [{"type": "string"}] * 20_000},
        "text",
    ],
)
def test_it_refuses_schemas_that_cost_too_much(schema: object) -> None:
    assert refused(with_schema(schema)).param == "response_format.json_schema.schema"
    assert refused({"messages": HELLO, "tools": [{"function": {"name": "f", "parameters": schema}}]}).param
    assert refused({"messages": HELLO, "structured_outputs": {"json": schema}}).param


def test_it_refuses_references_that_multiply() -> None:
    levels = {f"l{i}": {"anyOf": [{"$ref": f"#/$defs/l{i + 1}"}] * 10} for i in range(12)}
    assert (
        refused(with_schema({"$defs": levels | {"l12": {}}, "$ref": "#/$defs/l0"})).code == "invalid_schema"
    )


@pytest.mark.parametrize(
    "schema",
    [
        nested(10),
        {
            "$defs": {"a": {"type": "integer"}},
            "properties": {"x": {"$ref": "#/$defs/a"}, "y": {"$ref": "#/$defs/a"}},
        },
        {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2})?$"},
        {"type": "string", "pattern": "^(foo|bar)+[(+]*$"},
    ],
)
def test_it_takes_ordinary_schemas(schema: object) -> None:
    policy.check(with_schema(schema), chat=True)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e400}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\\ud800"}',
        b'{"\\uDC00": 1}',
        b'{"a": ["\\ud83d"]}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": ' * 10_000 + b"1" + b"}" * 10_000,
        b"[" * 1_000_000,
        b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}",
        b"[]",
        b'"text"',
        b"",
        b"{",
        b'{"a": 1} x',
    ],
)
def test_it_refuses_json_that_is_not_strict(raw: bytes) -> None:
    before = time.monotonic()
    with pytest.raises(policy.BadRequest):
        policy.loads(raw)
    assert time.monotonic() - before < 1


def test_it_finds_a_doubled_key_among_many_quickly() -> None:
    pairs = ",".join(f'"k{i}": 1' for i in range(200_000))
    before = time.monotonic()
    with pytest.raises(policy.BadRequest, match="k199999"):
        policy.loads(f'{{{pairs}, "k199999": 1}}'.encode())
    assert time.monotonic() - before < 2


@given(st.binary(max_size=200))
def test_it_answers_any_bytes_with_an_object_or_a_refusal(raw: bytes) -> None:
    try:
        assert isinstance(policy.loads(raw), dict)
    except policy.BadRequest as problem:
        assert problem.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_it_reads_back_what_json_writes(data: dict[str, Any]) -> None:
    assert policy.loads(json.dumps(data).encode()) == data
    assert policy.loads(json.dumps(data, ensure_ascii=False).encode()) == data


@given(st.sampled_from(sorted(policy.CHAT | policy.COMPLETION)), JSON, st.booleans())
def test_it_never_fails_on_any_value_of_any_parameter(name: str, value: object, chat: bool) -> None:
    body: dict[str, Any] = {"messages": HELLO} if chat else {"prompt": "Hello"}
    try:
        policy.check(body | {name: value}, chat=chat)
    except policy.BadRequest as problem:
        assert problem.param or problem.code == "invalid_json"


def test_it_lets_ordinary_requests_pass_untouched() -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief"},
            *HELLO,
            {"role": "assistant", "tool_calls": []},
        ],
        "temperature": 0.7,
        "top_p": 1,
        "max_tokens": 100,
        "seed": None,
        "stop": ["\n"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": nested(3)}}],
        "unknown_field": {"kept": 1},
    }
    before = json.dumps(body)
    policy.check(body, chat=True)
    assert json.dumps(body) == before
    policy.check({"prompt": ["a", "b"], "logprobs": 5, "echo": True}, chat=False)
    policy.check({"prompt": [1, 2, 3]}, chat=False)


@pytest.mark.parametrize("prompt", [None, "", [], {"a": 1}, [{"multimodal_data": []}], [1, "a"], [[-1]], 7])
def test_it_refuses_prompts_that_are_none(prompt: object) -> None:
    assert refused({"prompt": prompt}, chat=False).param == "prompt"
