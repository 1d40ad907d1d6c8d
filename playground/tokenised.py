"""The tokens of a text as a column's model reads them: by its engine, else by the tokenizer in its folder."""

import asyncio
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings

from playground import deployments, engine_client, engines
from playground.engine_client import EngineError, Target
from playground.engines.pieces import Token
from playground.models import Generation
from playground.orm import orm

LOOK_S = 10.0
# Characters of a text by which two tokenizers are told apart.
SAMPLE = 20_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokenised:
    """A text's tokens, and whose they are: "engine" or "tokenizer"; or `why` they are not known."""

    tokens: tuple[Token, ...] = ()
    by: str = ""
    why: str = ""

    @property
    def texts(self) -> list[str]:
        """The tokens as texts that add up to the whole: one that ends within a character goes to the next."""
        found: list[str] = []
        held = b""
        for _, raw in self.tokens:
            held += raw
            if not held:
                continue
            try:
                found.append(held.decode())
            except UnicodeDecodeError:
                continue
            held = b""
        return [*found, held.decode(errors="replace")] if held else found


async def tokenised(generation: Generation, text: str) -> Tokenised:
    """The tokens of `text` in the model that gave this answer."""
    if not text:
        return Tokenised(by="engine")
    name = engine_title(generation)
    if found := await _by_engine(generation, text):
        return Tokenised(tuple(found), "engine")
    folder = await orm(folder_of, generation)
    if folder is not None and (found := await asyncio.to_thread(_by_folder, folder, text)):
        return Tokenised(tuple(found), "tokenizer")
    return Tokenised(why=f"{name} does not tell its tokens now, and its tokenizer is not on this machine.")


async def _by_engine(generation: Generation, text: str) -> list[Token] | None:
    target = await orm(target_of, generation)
    if target is None:
        return None
    try:
        async with asyncio.timeout(LOOK_S):
            ask = engine_client.asking(target)
            found = await engines.get(target.engine).pieces(ask, target.served_name, text)
    except (EngineError, TimeoutError, KeyError, TypeError, ValueError) as problem:
        log.info("The tokens of answer %d are not told: %s", generation.pk, problem)
        return None
    return found if found and b"".join(raw for _, raw in found) == text.encode() else None


def target_of(generation: Generation) -> Target | None:
    """A ready replica of the configuration that answered; None without one."""
    if generation.replica is None:
        return None
    ready = deployments.ready_replicas(generation.replica.deployment)
    same = [replica for replica in ready if replica.configuration_id == generation.configuration_id]
    try:
        return engine_client.target(same[0]) if same else None
    except EngineError as problem:
        log.info("Answer %d cannot be asked again: %s", generation.pk, problem)
        return None


def folder_of(generation: Generation) -> Path | None:
    """Where the files of the model that answered lie on this machine; None where they do not."""
    if generation.configuration is None:
        return None
    folder: Path = settings.HOME / "models" / generation.configuration.format.path
    return folder if folder.is_dir() else None


def engine_title(generation: Generation) -> str:
    """The name of the engine that answered: "vLLM"."""
    if generation.configuration is not None:
        return engines.get(generation.configuration.engine).title
    deployment = generation.column.deployment
    return engines.get(deployment.engine).title if deployment else "The model"


def _by_folder(folder: Path, text: str) -> list[Token] | None:
    """With transformers, imported at first need. No code of the model's is run."""
    try:
        tokenizer = _tokenizer(folder)
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except (OSError, ValueError, KeyError, NotImplementedError) as problem:
        log.info("The tokenizer in %s does not serve: %s", folder.name, problem)
        return None
    return _cut(text, found["input_ids"], found["offset_mapping"])


@lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _cut(text: str, ids: list[int], spans: list[tuple[int, int]]) -> list[Token] | None:
    """The text cut where tokens end. Tokens of one character share its place: the last of them has it."""
    found: list[Token] = []
    at = 0
    for place, (token, (_, end)) in enumerate(zip(ids, spans, strict=True)):
        shared = place + 1 < len(spans) and spans[place + 1][0] < end
        until = at if shared else max(at, end)
        found.append((token, text[at:until].encode()))
        at = until
    return found if at == len(text) else None


async def same_tokenizer(a: Generation, b: Generation, text: str) -> bool | None:
    """Whether both models cut `text` into the same tokens; None where that is not known."""
    if a.configuration_id is not None and a.configuration_id == b.configuration_id:
        return True
    one, other = await asyncio.gather(tokenised(a, text[:SAMPLE]), tokenised(b, text[:SAMPLE]))
    if one.why or other.why:
        return None
    return [token for token, _ in one.tokens] == [token for token, _ in other.tokens]
