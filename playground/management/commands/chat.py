"""`manage.py chat DEPLOYMENT "text"`: one answer, streamed to the terminal."""

import asyncio
import time
from argparse import ArgumentParser
from typing import Any

from playground import deployments, engine_client, kinds, policy, shell


class Command(shell.Verb):
    help = "Ask a ready deployment; the answer streams to standard output, its figures go to standard error."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("deployment", help="Id or name.")
        parser.add_argument("text")
        parser.add_argument("--system", default="", help="System prompt.")
        parser.add_argument("--max-tokens", type=int, default=None)
        parser.add_argument("--temperature", type=float, default=None)

    def act(self, *, quiet: bool, **options: Any) -> dict[str, Any]:
        row = shell.deployment(options["deployment"])
        if row.model.task != kinds.CHAT:
            told = (
                f"{row.name} {kinds.NAMES[row.model.task]}; it does not chat. Use: manage.py ask {row.pk} …"
            )
            raise shell.Failed(told, shell.REFUSED)
        replicas = deployments.ready_replicas(row)
        if not replicas:
            raise shell.Failed(f"{row.name} is not ready. See: manage.py deployments", shell.REFUSED)
        target = engine_client.target(replicas[0])
        body = _body(target.served_name, options)
        deployments.touch(row)
        try:
            return asyncio.run(_ask(target, body, None if quiet else self.stdout))
        except engine_client.EngineError as problem:
            raise shell.Failed(str(problem), shell.FAILED) from problem

    def show(self, value: dict[str, Any]) -> None:
        self.stdout.write("")
        tokens = (value["usage"] or {}).get("completion_tokens", "n/a")
        first = "n/a" if value["ttft_ms"] is None else f"{value['ttft_ms']:.0f} ms"
        self.stderr.write(f"TTFT {first} · {tokens} tokens · {value['e2e_ms'] / 1000:.1f} s")


def _body(served_name: str, options: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "system", "content": options["system"]}] if options["system"] else []
    messages.append({"role": "user", "content": options["text"]})
    body: dict[str, Any] = {"model": served_name, "messages": messages, "stream": True}
    body["stream_options"] = {"include_usage": True}
    body |= {key: options[key] for key in ("max_tokens", "temperature") if options[key] is not None}
    try:
        policy.check(body, chat=True)
    except policy.BadRequest as problem:
        raise shell.Failed(str(problem), shell.USAGE) from problem
    return body


async def _ask(target: engine_client.Target, body: dict[str, Any], terminal: Any) -> dict[str, Any]:
    """Stream one answer, writing text as it comes. Milliseconds count from the request being written."""
    start, first, text, usage, finish = time.monotonic(), None, "", None, ""
    try:
        async for frame in engine_client.stream(target, "/v1/chat/completions", body, first_byte_s=600):
            if frame.kind in ("content", "reasoning") and frame.text:
                first = first or frame.at
                if frame.kind == "content":
                    text += frame.text
                if terminal:
                    terminal.write(frame.text, ending="")
                    terminal.flush()
            elif frame.kind == "usage":
                usage = frame.data
            elif frame.kind == "finish":
                finish = frame.text
    finally:
        await engine_client.close()
    ttft = None if first is None else (first - start) * 1000
    elapsed = (time.monotonic() - start) * 1000
    return {"text": text, "finish_reason": finish, "usage": usage, "ttft_ms": ttft, "e2e_ms": elapsed}
