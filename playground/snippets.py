"""Code that asks what a conversation asks, to copy and run. The key stays in the environment."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pprint import pformat
from typing import Any

# What the OpenAI libraries do not name themselves goes through their `extra_body`.
EXTRA = frozenset({"top_k"})
KEY = "SLIPWAY_API_KEY"
PATHS = {
    "chat": "/chat/completions",
    "completion": "/completions",
    "embedding": "/embeddings",
    "rerank": "/rerank",
    "classification": "/classify",
}
# What to ask where nothing was asked yet.
EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
    "completion": {"prompt": "The capital of France is"},
    "embedding": {"input": ["The capital of France is Paris.", "Bananas are yellow."]},
    "rerank": {
        "query": "What is the capital of France?",
        "documents": ["Bananas are yellow.", "Paris is the capital of France."],
    },
    "classification": {"input": ["What a match!"]},
}
# How the libraries name each, and where a chunk or an answer holds what was asked for.
_PYTHON = {
    "chat": ("chat.completions", "chunk.choices[0].delta.content"),
    "completion": ("completions", "chunk.choices[0].text"),
}
_JAVASCRIPT = {"chat": "chunk.choices[0]?.delta?.content", "completion": "chunk.choices[0]?.text"}


@dataclass(frozen=True)
class Snippet:
    language: str
    title: str
    text: str


def snippets(
    base_url: str, model: str, task: str, asked: Mapping[str, Any], parameters: Mapping[str, Any]
) -> list[Snippet]:
    """The same request three ways. `base_url` ends in /v1; `model` is what the endpoint is called by.

    `asked` is what was typed, by the task's parameters; `parameters` are those of a task that generates.
    """
    body = {"model": model, **(asked or EXAMPLES[task])}
    if task in _PYTHON:
        body |= parameters
    return [
        Snippet("bash", "curl", _curl(base_url, task, body)),
        Snippet("python", "Python", _python(base_url, task, body)),
        Snippet("javascript", "JavaScript", _javascript(base_url, task, body)),
    ]


def _curl(base_url: str, task: str, body: Mapping[str, Any]) -> str:
    streams = {"stream": True} if task in _PYTHON else {}
    # In single quotes a shell changes nothing; a quote itself is written as an escape that JSON knows.
    text = json.dumps({**body, **streams}, indent=2, ensure_ascii=False).replace("'", "\\u0027")
    return (
        f"curl {'-N ' if streams else ''}{base_url}{PATHS[task]} \\\n"
        f'  -H "Authorization: Bearer ${KEY}" \\\n'
        f"  -H 'Content-Type: application/json' \\\n  -d '{text}'"
    )


def _python(base_url: str, task: str, body: Mapping[str, Any]) -> str:
    head = (
        "import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base_url}", api_key=os.environ["{KEY}"])\n'
    )
    if task == "embedding":
        return (
            f"{head}answer = client.embeddings.create(\n{_arguments(body)})\n"
            "for row in answer.data:\n    print(row.index, row.embedding[:4])\n"
        )
    if task not in _PYTHON:
        text = _literal(body)
        return f'{head}answer = client.post("{PATHS[task]}", cast_to=object, body={text})\nprint(answer)\n'
    name, content = _PYTHON[task]
    named = {key: value for key, value in body.items() if key not in EXTRA}
    extra = {key: value for key, value in body.items() if key in EXTRA}
    return (
        f"{head}stream = client.{name}.create(\n"
        f"{_arguments({**named, **({'extra_body': extra} if extra else {})})}    stream=True,\n)\n"
        "for chunk in stream:\n"
        "    if chunk.choices:\n"
        f'        print({content} or "", end="", flush=True)\n'
    )


def _arguments(values: Mapping[str, Any]) -> str:
    return "".join(f"    {name}={_literal(value)},\n" for name, value in values.items())


def _literal(value: Any) -> str:
    return pformat(value, width=90, sort_dicts=False).replace("\n", "\n    ")


def _javascript(base_url: str, task: str, body: Mapping[str, Any]) -> str:
    head = (
        'import OpenAI from "openai";\n\n'
        f'const client = new OpenAI({{ baseURL: "{base_url}", apiKey: process.env.{KEY} }});\n'
    )
    text = json.dumps({**body, **({"stream": True} if task in _PYTHON else {})}, indent=2, ensure_ascii=False)
    if task == "embedding":
        return (
            f"{head}const answer = await client.embeddings.create({text});\n"
            "for (const row of answer.data) console.log(row.index, row.embedding.slice(0, 4));\n"
        )
    if task not in _PYTHON:
        return (
            f'{head}const answer = await client.post("{PATHS[task]}", {{ body: {text} }});\n'
            "console.log(answer);\n"
        )
    return (
        f"{head}const stream = await client.{_PYTHON[task][0]}.create({text});\n"
        "for await (const chunk of stream)\n"
        f'  process.stdout.write({_JAVASCRIPT[task]} ?? "");\n'
    )
