"""Tokens and log-probabilities as a running engine tells them: what every engine's test checks."""

import asyncio
from typing import Any

from playground import catalogue, divergence, engine_client, engines, tokenised
from playground.engine_client import Target
from playground.margins import Run
from tests import real_engines

TEXT = "Héllo wörld, it is 3.14 o'clock\n\tin Paris."
FAMILY = " \U0001f469\u200d\U0001f467"
LONG = "Say hi in one word."
SHORT = "What is 2+2? Answer with the number only."


async def _told(target: Target, text: str) -> Any:
    try:
        ask = engine_client.asking(target)
        return await engines.get(target.engine).pieces(ask, target.served_name, text)
    finally:
        await engine_client.close()


async def _read(target: Target) -> Run:
    asked = {"max_tokens": 24, "stream": True, "logprobs": True, "top_logprobs": 20}
    asked |= {"model": target.served_name}
    try:
        return await divergence._read(target, real_engines.body(LONG, **asked), 10_000)
    finally:
        await engine_client.close()


async def _read_whole(target: Target) -> Run:
    """An answer that ends by itself after some words."""
    asked = {"max_tokens": 64, "logprobs": True, "top_logprobs": 20, "model": target.served_name}
    try:
        return await divergence._read_whole(target, real_engines.body(SHORT, **asked))
    finally:
        await engine_client.close()


def check_tokens(target: Target) -> None:
    """Its tokens put together are the text, to the byte; where it tells none, the folder's tokenizer does."""
    engine = target.engine
    pieces = asyncio.run(_told(target, TEXT))
    if engine in ("llama.cpp", "vllm", "sglang"):
        assert b"".join(raw for _, raw in pieces).decode() == TEXT
    else:
        assert pieces is None
    if engine in ("llama.cpp", "vllm"):
        assert b"".join(raw for _, raw in asyncio.run(_told(target, FAMILY))).decode() == FAMILY
    if engine == "transformers":
        _, form = real_engines.demo("safetensors")
        cut = tokenised._by_folder(catalogue.local(form).path, TEXT + FAMILY)
        assert cut and b"".join(raw for _, raw in cut).decode() == TEXT + FAMILY
        assert len(cut) > len(tokenised.Tokenised(tuple(cut)).texts)


def check_log_probabilities(target: Target) -> None:
    """The same answer twice, each token with twenty others, none likelier; and how an answer ends."""
    if not engines.get(target.engine).tells_logprobs({}).ok:
        return
    found, again = asyncio.run(_read(target)), asyncio.run(_read(target))
    ended = asyncio.run(_read_whole(target))
    assert found.text == again.text and found.text
    assert [one.raw for one in found.tokens] == [one.raw for one in again.tokens]
    assert found.text.encode() in b"".join(one.raw for one in found.tokens)
    for token in found.tokens:
        assert token.logprob is not None and token.logprob <= 0
        # The token itself may come beside the twenty.
        assert len(token.others) in (20, 21)
        assert token.logprob >= max(one.logprob for one in token.others) - 1e-4
    assert ended.ended
    assert ended.tokens[-1].ends
    assert ended.text.encode() == b"".join(one.raw for one in ended.tokens if not one.ends)
