"""Code that asks what a conversation asks, to copy and run. The key stays in the environment."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pprint import pformat
from typing import Any

# What the OpenAI libraries do not name themselves goes through their `extra_body`.
EXTRA = frozenset({"top_k"})
KEY = "SLIPWAY_API_KEY"


@dataclass(frozen=True)
class Snippet:
    language: str
    title: str
    text: str


def snippets(
    base_url: str, model: str, messages: list[dict[str, Any]], parameters: Mapping[str, Any]
) -> list[Snippet]:
    """The same request three ways. `base_url` ends in /v1; `model` is what the endpoint is called by."""
    return [
        Snippet("bash", "curl", _curl(base_url, model, messages, parameters)),
        Snippet("python", "Python", _python(base_url, model, messages, parameters)),
        Snippet("javascript", "JavaScript", _javascript(base_url, model, messages, parameters)),
    ]


def _curl(base_url: str, model: str, messages: list[dict[str, Any]], parameters: Mapping[str, Any]) -> str:
    body = {"model": model, "messages": messages, **parameters, "stream": True}
    # In single quotes a shell changes nothing; a quote itself is written as an escape that JSON knows.
    text = json.dumps(body, indent=2, ensure_ascii=False).replace("'", "\\u0027")
    return (
        f'curl -N {base_url}/chat/completions \\\n  -H "Authorization: Bearer ${KEY}" \\\n'
        f"  -H 'Content-Type: application/json' \\\n  -d '{text}'"
    )


def _python(base_url: str, model: str, messages: list[dict[str, Any]], parameters: Mapping[str, Any]) -> str:
    named = {name: value for name, value in parameters.items() if name not in EXTRA}
    extra = {name: value for name, value in parameters.items() if name in EXTRA}
    arguments = {"model": model, "messages": messages, **named, **({"extra_body": extra} if extra else {})}
    lines = "".join(f"    {name}={_literal(value)},\n" for name, value in arguments.items())
    return (
        "import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base_url}", api_key=os.environ["{KEY}"])\n'
        f"stream = client.chat.completions.create(\n{lines}    stream=True,\n)\n"
        "for chunk in stream:\n"
        "    if chunk.choices:\n"
        '        print(chunk.choices[0].delta.content or "", end="", flush=True)\n'
    )


def _literal(value: Any) -> str:
    return pformat(value, width=90, sort_dicts=False).replace("\n", "\n    ")


def _javascript(
    base_url: str, model: str, messages: list[dict[str, Any]], parameters: Mapping[str, Any]
) -> str:
    body = {"model": model, "messages": messages, **parameters, "stream": True}
    text = json.dumps(body, indent=2, ensure_ascii=False)
    return (
        'import OpenAI from "openai";\n\n'
        f'const client = new OpenAI({{ baseURL: "{base_url}", apiKey: process.env.{KEY} }});\n'
        f"const stream = await client.chat.completions.create({text});\n"
        "for await (const chunk of stream)\n"
        '  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");\n'
    )
