"""What differs between the requests that columns really made, in words: which defaults, which template. Pure.

What an engine does not tell stays n/a, with the reason.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from playground.differences import first_character, named
from playground.looks import ASKED, FILE, OWN, TOLD, Look, Value

AROUND = 24
# What does nothing, by parameter.
NEUTRAL: Mapping[str, tuple[float, ...]] = {
    "top_p": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "typical_p": (1,),
    "repetition_penalty": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "max_tokens": (-1,),
}
# What no engine sets by itself.
UNSET = frozenset({"seed"})


def words(looks: Sequence[Look]) -> list[str]:
    """How the columns' requests differ, one sentence each, what matters most first."""
    if len(looks) < 2:
        return []
    found = [prompts(looks[0], other) for other in looks[1:]]
    for name in dict.fromkeys(name for look in looks for name in look.sampled):
        found.append(_parameter(name, looks))
    found += _left_out(looks)
    found += _facts(looks)
    return [sentence for sentence in dict.fromkeys(found) if sentence]


def prompts(a: Look, b: Look) -> str:
    """Where the rendered prompts of two columns part; "" where they are the same tokens."""
    if a.token_ids is not None and b.token_ids is not None:
        return "" if a.token_ids == b.token_ids else _other_tokens(a, b)
    if a.rendered is not None and b.rendered is not None and a.rendered != b.rendered:
        return f"Their prompts differ: {_texts(a, b)}."
    unknown = [look.name for look in (a, b) if look.token_ids is None]
    return f"n/a: the tokens of its prompt are not told by {' nor by '.join(unknown)}."


def _other_tokens(a: Look, b: Look) -> str:
    ids, others = a.token_ids or (), b.token_ids or ()
    for more, less, long, short in ((a, b, ids, others), (b, a, others, ids)):
        if long[1:] == short:
            return f"{more.name} put token {long[0]} before the prompt; {less.name} did not."
    pairs = zip(ids, others, strict=False)
    at = next((place for place, (x, y) in enumerate(pairs) if x != y), min(len(ids), len(others)))
    here = " / ".join(str(one[at]) if at < len(one) else "its end" for one in (ids, others))
    if a.rendered == b.rendered and a.rendered is not None:
        return f"The same prompt is other tokens from token {at + 1} on ({here}): they tokenise differently."
    return f"Their prompts differ at token {at + 1} ({here}): {_texts(a, b)}."


def _texts(a: Look, b: Look) -> str:
    left, right = a.rendered or "", b.rendered or ""
    at = first_character(left, right)
    if at is None or not (left and right):
        return "the text of one is not told"
    return f"{named(left[at : at + AROUND])} in {a.name}, {named(right[at : at + AROUND])} in {b.name}"


def _parameter(name: str, looks: Sequence[Look]) -> str:
    """One sentence for a parameter that columns sampled by differently; "" where they did not."""
    values = [look.sampled.get(name) for look in looks]
    if len({_worth(name, value) for value in values}) == 1:
        return ""
    filed = any(value is not None and value.source == FILE for value in values)
    clauses: dict[tuple[str, str, bool], list[str]] = {}
    for look, value in zip(looks, values, strict=True):
        source = value.source if value else ""
        instead = filed and look.reads_file is False and source in (OWN, TOLD)
        clauses.setdefault((source, _took(name, value), instead), []).append(look.name)
    order = sorted(clauses, key=lambda clause: (FILE, ASKED, OWN, TOLD, "").index(clause[0]))
    return "; ".join(_clause(clauses[one], one[1], one[2]) for one in order) + "."


def _clause(names: Sequence[str], took: str, instead: bool) -> str:
    several = len(names) > 1
    if instead:
        return f"{_all(names)} did not: {'they' if several else 'it'} {took}"
    plural = took.replace("was asked", "were asked").replace("does not tell its", "do not tell their")
    return f"{_all(names)} {plural if several else took}"


def _took(name: str, value: Value | None) -> str:
    if value is None:
        return f"was asked for no {name}" if name in UNSET else f"does not tell its {name}"
    took = f"{name} {_number(name, value.value)}"
    if value.source == ASKED:
        return f"was asked for {took}"
    return f"took {took} {value.words}" if value.source != OWN else f"took {took}, {value.words}"


def _worth(name: str, value: Value | None) -> Any:
    """What is compared: what does nothing is as good as unset."""
    if value is None or value.value in NEUTRAL.get(name, ()):
        return None
    return float(value.value) if isinstance(value.value, int | float) else str(value.value)


def _number(name: str, value: Any) -> str:
    if name == "max_tokens" and value == -1:
        return "without limit"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _all(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _left_out(looks: Sequence[Look]) -> list[str]:
    found = []
    for name in dict.fromkeys(one for look in looks for one in (*look.ignored, *look.refused)):
        ignoring = [look.name for look in looks if name in look.ignored]
        refusing = [look.name for look in looks if name in look.refused]
        taking = [look.name for look in looks if name in look.body and name not in look.ignored]
        parts = [f"{_all(ignoring)} ignored {name}"] if ignoring else []
        parts += [f"{name} was not sent to {_all(refusing)}, which refuses it" if refusing else ""]
        parts += [f"{_all(taking)} took it" if taking else ""]
        found.append("; ".join(part for part in parts if part) + ".")
    return found


def _facts(looks: Sequence[Look]) -> list[str]:
    """Each fact that is not the same for all, as "weights: GGUF Q4_1 in llama.cpp; safetensors in vLLM."."""
    found = []
    for title in dict.fromkeys(title for look in looks for title in look.facts):
        groups: dict[str, list[str]] = {}
        for look in looks:
            groups.setdefault(look.facts.get(title, "unset"), []).append(look.name)
        if len(groups) > 1 and not (title == "version" and _says_itself(groups)):
            told = (f"{value} in {_all(names)}" for value, names in groups.items())
            found.append(f"{title[0].upper()}{title[1:]}: {'; '.join(told)}.")
    return found


def _says_itself(groups: Mapping[str, Sequence[str]]) -> bool:
    """Whether the columns' names tell their engines apart already."""
    return all(value.rpartition(" ")[0] in names for value, names in groups.items())
