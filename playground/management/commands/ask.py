"""`manage.py ask DEPLOYMENT TEXT…`: what a model that does not chat is for: embed, rank, classify, go on."""

import asyncio
import time
from argparse import ArgumentParser
from typing import Any

from playground import answers, deployments, engine_client, kinds, shell, widgets
from playground.models import Deployment


class Command(shell.Verb):
    help = "Have a ready deployment embed, rank or classify texts, or continue one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("deployment", help="Id or name.")
        parser.add_argument("texts", nargs="+", metavar="text")
        parser.add_argument("--query", default="", help="What a reranker ranks the texts by.")

    def act(self, *, quiet: bool, **options: Any) -> dict[str, Any]:
        row = shell.deployment(options["deployment"])
        task, text = row.model.task, "\n".join(options["texts"])
        if task == kinds.CHAT:
            raise shell.Failed(f"{row.name} chats. Use: manage.py chat {row.pk} …", shell.REFUSED)
        try:
            widgets.check(task, text, options)
        except widgets.Unfit as problem:
            raise shell.Failed(str(problem), shell.USAGE) from problem
        replicas = deployments.ready_replicas(row)
        if not replicas:
            raise shell.Failed(f"{row.name} is not ready. See: manage.py deployments", shell.REFUSED)
        deployments.touch(row)
        try:
            return asyncio.run(_ask(_question(row, engine_client.target(replicas[0]), text, options)))
        except (engine_client.EngineError, widgets.Malformed) as problem:
            raise shell.Failed(str(problem), shell.FAILED) from problem

    def show(self, value: dict[str, Any]) -> None:
        for line in value["lines"]:
            self.stdout.write(line)
        tokens = value["usage"].get("prompt_tokens", "n/a")
        self.stderr.write(f"{tokens} tokens read · {value['e2e_ms']:.0f} ms")


def _question(
    row: Deployment, target: engine_client.Target, text: str, options: dict[str, Any]
) -> answers.Question:
    task, labels = row.model.task, tuple(row.model.facts.get("labels") or ())
    return answers.Question(target, widgets.asked(task, text, options), {}, task, labels)


async def _ask(question: answers.Question) -> dict[str, Any]:
    """The engine's answer, whole: what it means as lines, and as it came."""
    body = {**answers.checked(question), "stream": False} if question.generates else answers.checked(question)
    body.pop("stream_options", None)
    began = time.monotonic()
    try:
        answer = await engine_client.complete(question.target, question.path, body)
    finally:
        await engine_client.close()
    elapsed = (time.monotonic() - began) * 1000
    usage = answer.get("usage")
    found = {"usage": usage if isinstance(usage, dict) else {}, "e2e_ms": elapsed, "answer": answer}
    return found | {"lines": _lines(question, answer)}


def _lines(question: answers.Question, answer: dict[str, Any]) -> list[str]:
    if question.generates:
        return [str(choice.get("text")) for choice in answer.get("choices", [])]
    result, _ = widgets.read(question.task, question.asked, answer, question.labels)
    texts = question.asked.get("documents") or question.asked["input"]
    if question.task == kinds.RERANK:
        return [f"{score:8.4f}  {texts[place]}" for place, score in result["ranks"]]
    if question.task == kinds.CLASSIFICATION:
        pairs = zip(texts, result["texts"], strict=True)
        return [f"{one['scores'][0][1]:.4f}  {one['label']}  {text}" for text, one in pairs]
    rows = zip(texts, result["first"], result["similarity"], strict=True)
    return [f"{text}\n  {first} … of {result['dimension']}; cosines {alike}" for text, first, alike in rows]
