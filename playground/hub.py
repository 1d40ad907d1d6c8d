"""The Hub of models, or a mirror of it (HF_ENDPOINT): searching it, and what one repository is at one commit.

Everything here is public knowledge: no token is sent, since only the downloader has one. Without a network
each call ends soon with an error of its own kind, and pages go on with what lies here. `huggingface_hub` is
imported at first need: it takes half a second.
"""

import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from django.conf import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2
    from huggingface_hub import HfApi, ModelInfo

COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}", re.ASCII)
LONGEST_NAME = 150
# Small files of a repository that say what its weights are.
DESCRIBING = (
    "config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "modules.json",
    "adapter_config.json",
    "README.md",
)
MAX_DESCRIBING = 4 << 20
SEARCH_FIELDS = (
    "downloads",
    "likes",
    "gated",
    "tags",
    "pipeline_tag",
    "library_name",
    "safetensors",
    "gguf",
    "lastModified",
)
SORTS = {
    "downloads": "Most downloads",
    "likes": "Most likes",
    "trendingScore": "Trending",
    "lastModified": "Changed last",
}
# What was found is shown again for this long without asking; after a failure to reach it nothing is asked.
FRESH_S = 60.0
AWAY_S = 5.0
CONNECT_S = 3.0
SWITCHED_OFF = "The Hub is switched off here (HF_HUB_OFFLINE). Models that lie here work."


class Trouble(StrEnum):
    """Why the Hub gave nothing."""

    AWAY = "away"
    OFF = "off"
    UNKNOWN = "unknown"
    GATED = "gated"
    LIMITED = "limited"
    FAILED = "failed"
    BAD_NAME = "bad_name"


class HubError(Exception):
    """The Hub did not give what was asked; the text tells a person what to do."""

    def __init__(self, trouble: Trouble, text: str) -> None:
        super().__init__(text)
        self.trouble = trouble


@dataclass(frozen=True)
class File:
    """One file of a commit. `sha256` of large files, `sha1` (as git names a blob) of the others."""

    path: str
    size: int
    sha256: str = ""
    sha1: str = ""

    def as_row(self) -> dict[str, Any]:
        """As `ModelFormat.files` keeps it."""
        digest = {"sha256": self.sha256} if self.sha256 else {"sha1": self.sha1}
        return {"path": self.path, "size": self.size, **digest}


@dataclass(frozen=True)
class Found:
    """One hit of a search. `dtype` as safetensors names it; None and empty where the Hub does not say."""

    repo: str
    task: str
    library: str
    licence: str
    gated: bool
    downloads: int
    likes: int
    changed_at: datetime | None
    parameters: int | None = None
    size_bytes: int | None = None
    dtype: str = ""


@dataclass(frozen=True)
class Repository:
    """A repository at one commit. `texts` are its describing files; a gated one's are not told."""

    repo: str
    commit: str
    files: tuple[File, ...]
    told: Found
    tags: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    gguf: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """As `Model.source` names it for ever."""
        return f"hub:{self.repo}@{self.commit}"

    @property
    def address(self) -> str:
        """Its page for people."""
        return f"{settings.HF_ENDPOINT}/{self.repo}"


@dataclass(frozen=True)
class Wish:
    """What is searched for. Empty is anything; `size` is the Hub's range, "min:1B,max:3B"."""

    text: str = ""
    task: str = ""
    tags: tuple[str, ...] = ()
    licence: str = ""
    library: str = ""
    gated: bool | None = None
    size: str = ""
    sort: str = "downloads"

    def parameters(self, limit: int) -> dict[str, Any]:
        tags = [*self.tags, f"license:{self.licence}"] if self.licence else [*self.tags]
        tags += [self.library] if self.library else []
        given = {
            "search": self.text,
            "pipeline_tag": self.task,
            "filter": tags,
            "num_parameters": self.size,
            "sort": self.sort,
        }
        gated = {} if self.gated is None else {"gated": str(self.gated).lower()}
        wanted = {key: value for key, value in given.items() if value}
        return {**wanted, **gated, "limit": limit, "expand": list(SEARCH_FIELDS)}


def split(name: str) -> tuple[str, str]:
    """ "org/name@revision" → ("org/name", "revision"), the revision "main" when none is named.

    HubError unless both look like what the Hub has: no path leads out of them.
    """
    repo, _, revision = name.strip().partition("@")
    repo, revision = repo.removeprefix(settings.HF_ENDPOINT + "/"), revision or "main"
    odd = ".." in repo or "--" in repo or repo.endswith(".git") or len(repo) > LONGEST_NAME
    if odd or not _NAME.fullmatch(repo):
        raise HubError(Trouble.BAD_NAME, f"{repo[:80]!r} is no name of a repository: write org/name.")
    if ".." in revision or not _REVISION.fullmatch(revision):
        raise HubError(
            Trouble.BAD_NAME, f"{revision[:80]!r} is no revision: write a branch, a tag or a commit."
        )
    return repo, revision


# Searching


_found: dict[tuple[str, Wish, int], tuple[float, list[Found]]] = {}
_away_until: dict[str, float] = {}


def search(wish: Wish, limit: int = 20) -> list[Found]:
    """The repositories that the Hub finds, in its order. HubError when it cannot be asked."""
    key = (settings.HF_ENDPOINT, wish, limit)
    kept = _found.get(key)
    if kept and time.monotonic() - kept[0] < FRESH_S:
        return kept[1]
    with _asking():
        answer = _get("/api/models", wish.parameters(limit))
        rows = [_hit(one) for one in _infos(answer)]
    if len(_found) > 200:
        _found.clear()
    _found[key] = (time.monotonic(), rows)
    return rows


def forget_troubles() -> None:
    """Ask anew at the next call, whatever was found or failed before."""
    _found.clear()
    _away_until.clear()


def _infos(answer: "httpx2.Response") -> "Iterator[ModelInfo]":
    from huggingface_hub import ModelInfo

    for one in answer.json():
        yield ModelInfo(**{"siblings": None, **one})


def _hit(info: "ModelInfo") -> Found:
    tags = info.tags or []
    dtypes = dict(info.safetensors.parameters) if info.safetensors else {}
    total = info.safetensors.total if info.safetensors else (info.gguf or {}).get("total")
    return Found(
        repo=info.id,
        task=info.pipeline_tag or "",
        library=info.library_name or "",
        licence=next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), ""),
        gated=bool(info.gated),
        downloads=info.downloads or 0,
        likes=info.likes or 0,
        changed_at=info.last_modified,
        parameters=total if isinstance(total, int) else None,
        size_bytes=_bytes(dtypes),
        dtype=max(dtypes, key=lambda name: dtypes[name], default=""),
    )


def _bytes(dtypes: Mapping[str, int]) -> int | None:
    """What weights of these types take, as safetensors stores them."""
    bits = {name: int(found[1]) for name in dtypes if (found := re.match(r"[A-Z]+(\d+)", name))}
    if not dtypes or len(bits) < len(dtypes):
        return None
    return sum(count * bits[name] // 8 for name, count in dtypes.items())


# One repository


def repository(repo: str, revision: str = "main") -> Repository:
    """What it is at that revision, whose commit is named from then on. HubError when it cannot be told."""
    repo, revision = split(f"{repo}@{revision}")
    with _asking():
        info = _api().model_info(
            repo, revision=revision, files_metadata=True, timeout=settings.HUB_TIMEOUT_S, token=False
        )
        commit = info.sha or ""
        if not COMMIT.fullmatch(commit):
            raise HubError(Trouble.FAILED, f"The Hub names no commit for {repo}: it cannot be pinned.")
        files = tuple(_file(sibling) for sibling in info.siblings or [])
        texts = {} if info.gated else _describe(repo, commit, files)
    return Repository(
        repo=repo,
        commit=commit,
        files=files,
        told=_hit(info),
        tags=tuple(info.tags or ()),
        texts=texts,
        config=info.config or {},
        gguf=info.gguf or {},
    )


def text_of(repo: str, commit: str, path: str, most: int = MAX_DESCRIBING) -> str:
    """A small file of a public repository, read whole; empty when it is larger than `most`."""
    with _asking():
        return _text(repo, commit, path, most)


def _text(repo: str, commit: str, path: str, most: int) -> str:
    from urllib.parse import quote

    place = f"/{repo}/resolve/{commit}/{quote(path)}"
    with _session().stream("GET", settings.HF_ENDPOINT + place, timeout=_patience()) as answer:
        _check(answer)
        whole = b""
        for block in answer.iter_bytes():
            whole += block
            if len(whole) > most:
                return ""
    return whole.decode(errors="replace")


def _describe(repo: str, commit: str, files: Iterable[File]) -> dict[str, str]:
    """The describing files that are small enough, each by its path, all asked for at once."""
    small = [file.path for file in files if file.path in DESCRIBING and file.size <= MAX_DESCRIBING]
    with ThreadPoolExecutor(max(len(small), 1)) as threads:
        return dict(
            zip(
                small, threads.map(lambda path: _text(repo, commit, path, MAX_DESCRIBING), small), strict=True
            )
        )


def _file(sibling: Any) -> File:
    large = sibling.lfs.sha256 if sibling.lfs else ""
    return File(sibling.rfilename, sibling.size or 0, large, "" if large else sibling.blob_id or "")


# Asking


def _library() -> Any:
    """The library, told to report on nobody: its own greeting asks the Hub who it runs for."""
    import huggingface_hub
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    return huggingface_hub


def _api() -> "HfApi":
    return _library().HfApi(endpoint=settings.HF_ENDPOINT, token=False, library_name="slipway")


def _session() -> "httpx2.Client":
    return _library().get_session()


def _get(path: str, parameters: Mapping[str, Any]) -> "httpx2.Response":
    """One question, asked once: the library's own search tries for half a minute before it gives up."""
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers(token=False, library_name="slipway")
    address = settings.HF_ENDPOINT + path
    return _check(_session().get(address, params=parameters, headers=headers, timeout=_patience()))


def _patience() -> "httpx2.Timeout":
    """A network that swallows everything is known for one sooner than a Hub that thinks."""
    import httpx2

    return httpx2.Timeout(settings.HUB_TIMEOUT_S, connect=min(CONNECT_S, settings.HUB_TIMEOUT_S))


def _check(answer: "httpx2.Response") -> "httpx2.Response":
    from huggingface_hub.utils import hf_raise_for_status

    hf_raise_for_status(answer)
    return answer


@contextmanager
def _asking() -> "Iterator[None]":
    """Turns what the library raises into HubError; nothing is asked while the Hub is known to be away."""
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    here = settings.HF_ENDPOINT
    if settings.HF_OFFLINE:
        raise HubError(Trouble.OFF, SWITCHED_OFF)
    if _away_until.get(here, 0) > time.monotonic():
        raise _away(here)
    try:
        yield
    except OfflineModeIsEnabled as problem:
        raise HubError(Trouble.OFF, SWITCHED_OFF) from problem
    except httpx2.HTTPStatusError as problem:
        raise _refused(problem.response) from problem
    except (httpx2.HTTPError, httpx2.InvalidURL) as problem:
        if response := getattr(problem, "response", None):
            raise _refused(response) from problem
        _away_until[here] = time.monotonic() + AWAY_S
        raise _away(here) from problem
    except (ValueError, KeyError, TypeError) as problem:
        raise HubError(Trouble.FAILED, f"{here} did not answer as the Hub does.") from problem


def _away(endpoint: str) -> HubError:
    return HubError(
        Trouble.AWAY, f"{endpoint} cannot be reached from this machine. Models that lie here work."
    )


def _refused(response: "httpx2.Response") -> HubError:
    """What an answer that is no success means."""
    code = response.headers.get("X-Error-Code", "")
    if response.status_code == 429:
        wait = response.headers.get("Retry-After", "")
        after = f" in {wait} s" if wait.isdigit() and wait != "0" else " in a minute"
        return HubError(Trouble.LIMITED, f"The Hub was asked too often from here. Try again{after}.")
    if code == "GatedRepo":
        return HubError(Trouble.GATED, "It is gated: its makers give it only to whom they accept.")
    if code == "RevisionNotFound":
        return HubError(Trouble.UNKNOWN, "It has no such branch, tag or commit.")
    if code in ("RepoNotFound", "EntryNotFound") or response.status_code in (401, 404):
        return HubError(Trouble.UNKNOWN, "The Hub has no such model, or it is private.")
    return HubError(Trouble.FAILED, f"The Hub answered {response.status_code}. Try again later.")
