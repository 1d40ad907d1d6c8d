"""A Hub to talk to: a real HTTP server with the Hub's routes, and a second one as the CDN it redirects to.

    def test_it_…(hub: HubStandIn) -> None:     # a fixture of conftest.py; settings.HF_ENDPOINT points at it
        hub.add_tiny()                          # small made-up repositories, listed in `TINY`
        hub.add_demo()                          # the demo model's real weights: DEMO, DEMO_GGUF
        commit = hub.add("me/mine", {"config.json": b"{}", "model.safetensors": Path(…)}, gated="manual")
        hub.change("me/mine", {"config.json": b"{…}"})   # main moves on; the old commit stays

Other processes (a worker, a web process) find it by the environment: {"HF_ENDPOINT": hub.url}. `TOKEN` opens
gated repositories; other tokens are refused as the Hub refuses them. `hub.seen` lists every request.

Faults, each until it has happened `times` times or `hub.heal()`:
    hub.cut("model.safetensors", at=0.99)         # the connection ends there
    hub.corrupt("model.safetensors")              # a byte is another one
    gate = hub.hold("model.safetensors", at=0.5)  # waits there until gate.set()
    hub.limit(times=2, retry_after=0)             # 429 for every route
    hub.fail(503, times=1)                        # that status for every route
    hub.pace = 1_000_000                          # bytes a second of each connection
    hub.signed += 1                               # addresses given out by now have expired

By hand, with the demo model: `python -m tests.hub_stand_in PORT`.
"""

import hashlib
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from tests import hub_repos
from tests.hub_repos import DEMO, DEMO_GGUF, TINY, Content, Zeros

__all__ = ["DEMO", "DEMO_GGUF", "TINY", "TOKEN", "HubStandIn", "Seen", "Zeros", "hub"]

TOKEN = "hf_StandInTokenThatOpensGatedModels"
LARGE = {".safetensors", ".gguf", ".bin", ".onnx", ".pt", ".model", ".msgpack", ".h5"}
BLOCK = 64 << 10
# What the Hub tells of config.json in its own answers.
TOLD = ("architectures", "model_type", "auto_map", "quantization_config")


@dataclass(frozen=True)
class Blob:
    """One file of one commit."""

    name: str
    content: Content

    @property
    def size(self) -> int:
        if isinstance(self.content, Path):
            return self.content.stat().st_size
        return self.content.size if isinstance(self.content, Zeros) else len(self.content)

    @property
    def is_large(self) -> bool:
        return Path(self.name).suffix in LARGE

    @cached_property
    def sha256(self) -> str:
        if isinstance(self.content, Zeros):
            return "0" * 64
        return hashlib.sha256(self.read(0, self.size)).hexdigest()

    @cached_property
    def sha1(self) -> str:
        """As git names it; of the pointer where the file is large, as on the Hub."""
        raw = self.pointer if self.is_large else self.read(0, self.size)
        return hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()

    @property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        return text.encode()

    def read(self, start: int, end: int) -> bytes:
        if isinstance(self.content, Zeros):
            return bytes(end - start)
        if isinstance(self.content, bytes):
            return self.content[start:end]
        with self.content.open("rb") as file:
            file.seek(start)
            return file.read(end - start)


@dataclass
class Repo:
    """One repository: its commits, newest last, and what the Hub says of it."""

    id: str
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: str | bool = False
    private: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, or a commit's own name, stands for."""
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass(frozen=True)
class Seen:
    """One request that arrived. `server`: "hub" or "cdn"."""

    server: str
    method: str
    path: str
    query: dict[str, list[str]]
    authorization: str
    range: str


@dataclass
class Fault:
    kind: str
    name: str
    at: float
    left: int
    gate: threading.Event = field(default_factory=threading.Event)


class HubStandIn:
    """The two servers and what they serve."""

    def __init__(self, port: int = 0, prefix: str = "") -> None:
        """`prefix`: the path below which a mirror lies, "/mirror"."""
        self.repos: dict[str, Repo] = {}
        self.prefix = prefix
        self.seen: list[Seen] = []
        self.pace = 0
        self.signed = 1
        self._faults: list[Fault] = []
        self._statuses: list[tuple[int, dict[str, str]]] = []
        self._lock = threading.Lock()
        self._hub = _Server(self, "hub", port)
        self._cdn = _Server(self, "cdn", 0)
        self.url = f"http://127.0.0.1:{self._hub.server_port}{prefix}"
        # By another name, so that it is another host to a client.
        self.cdn_url = f"http://localhost:{self._cdn.server_port}"

    def close(self) -> None:
        for fault in self._faults:
            fault.gate.set()
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    # What it serves

    def add(
        self,
        repo: str,
        files: Mapping[str, Content],
        *,
        gated: str | bool = False,
        private: bool = False,
        **facts: Any,
    ) -> str:
        """A repository whose main branch has these files; its first commit. `facts` as the Hub names them."""
        self.repos[repo] = Repo(repo, gated=gated, private=private, facts=facts)
        return self.change(repo, files)

    def change(self, repo: str, files: Mapping[str, Content]) -> str:
        """A new commit on main: the files of the last one, with these over them."""
        row = self.repos[repo]
        now = dict(row.commits[row.branches["main"]]) if row.branches else {}
        now |= {name: Blob(name, content) for name, content in files.items()}
        listed = "\n".join(f"{blob.name} {blob.size} {blob.sha1}" for blob in now.values())
        commit = hashlib.sha1(f"{repo}\n{len(row.commits)}\n{listed}".encode()).hexdigest()
        row.commits[commit], row.branches["main"] = now, commit
        return commit

    def commit(self, repo: str, branch: str = "main") -> str:
        return self.repos[repo].branches[branch]

    def add_tiny(self) -> None:
        """Every repository of `hub_repos.TINY`."""
        hub_repos.add_tiny(self)

    def add_demo(self) -> None:
        """The demo model's real weights: `DEMO` as safetensors, `DEMO_GGUF` as GGUF."""
        hub_repos.add_demo(self)

    # Faults

    def cut(self, name: str, at: float = 0.99, times: int = 1) -> None:
        self._faults.append(Fault("cut", name, at, times))

    def corrupt(self, name: str, times: int = 1_000_000) -> None:
        self._faults.append(Fault("corrupt", name, 0, times))

    def hold(self, name: str, at: float = 0.5, times: int = 1) -> threading.Event:
        fault = Fault("hold", name, at, times)
        self._faults.append(fault)
        return fault.gate

    def limit(self, times: int = 1, retry_after: int = 0) -> None:
        self._statuses += [(429, {"Retry-After": str(retry_after)})] * times

    def fail(self, status: int, times: int = 1) -> None:
        self._statuses += [(status, {})] * times

    def heal(self) -> None:
        """Nothing fails any more; what is held goes on."""
        for fault in self._faults:
            fault.left = 0
            fault.gate.set()
        self._statuses.clear()

    def fault(self, kind: str, blob: Blob, start: int, end: int) -> Fault | None:
        """The fault of that kind that this answer of bytes `start` to `end` meets; counted."""
        with self._lock:
            for fault in self._faults:
                reached = start <= int(blob.size * fault.at) < end
                if fault.kind == kind and fault.left and fault.name == Path(blob.name).name and reached:
                    fault.left -= 1
                    return fault
        return None

    def status(self) -> tuple[int, dict[str, str]] | None:
        with self._lock:
            return self._statuses.pop(0) if self._statuses else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, hub: HubStandIn, name: str, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.hub, self.name = hub, name
        threading.Thread(
            target=self.serve_forever, args=(0.05,), name=f"stand-in-{name}", daemon=True
        ).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None: ...

    @property
    def hub(self) -> HubStandIn:
        return self.server.hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        bearer = self.headers.get("Authorization", "")
        self.hub.seen.append(
            Seen(self.server.name, self.command, path, self.query, bearer, self.headers.get("Range", ""))
        )
        if forced := self.hub.status():
            self._error(*forced)
        elif self.server.name == "cdn":
            self._cdn(path)
        elif path.startswith(self.hub.prefix + "/"):
            self._route(path.removeprefix(self.hub.prefix))
        else:
            self._error(404, {})

    def _route(self, path: str) -> None:
        if path == "/api/models":
            return self._search()
        for pattern, answer in (
            (r"/api/resolve-cache/models/(.+)/([0-9a-f]{40})/(.+)", self._cached),
            (r"/api/models/(.+)/tree/([^/]+)(?:/.*)?", self._tree),
            (r"/api/models/(.+)/revision/(.+)", self._info),
            (r"/api/models/(.+?)()", self._info),
            (r"/(.+)/resolve/([^/]+)/(.+)", self._resolve),
        ):
            if found := re.fullmatch(pattern, path):
                answer(*found.groups())
                return None
        return self._error(404, {"X-Error-Code": "RepoNotFound"})

    # The API

    def _search(self) -> None:
        rows = [repo for repo in self.hub.repos.values() if not repo.private and self._matches(repo)]
        sort = self._one("sort") or "trendingScore"
        rows.sort(
            key=lambda repo: repo.facts.get(sort, 0) if sort in ("downloads", "likes") else 0, reverse=True
        )
        expand = self.query.get("expand", [])
        found = [self._facts(repo, repo.commits[repo.branches["main"]]) for repo in rows]
        kept = {"id", "_id", "modelId", *expand}
        chosen = [{key: value for key, value in row.items() if not expand or key in kept} for row in found]
        self._json(chosen[: int(self._one("limit") or 100)])

    def _matches(self, repo: Repo) -> bool:
        facts = self._facts(repo, {})
        tags = set(facts["tags"])
        if (text := self._one("search")) and any(
            word not in repo.id.lower() for word in text.lower().split()
        ):
            return False
        if any(wanted not in tags for wanted in self.query.get("filter", [])):
            return False
        if (task := self._one("pipeline_tag")) and task != facts["pipeline_tag"]:
            return False
        if (gated := self._one("gated")) and (gated.lower() == "true") != bool(repo.gated):
            return False
        return self._has_size(repo)

    def _has_size(self, repo: Repo) -> bool:
        limits = dict(part.split(":") for part in (self._one("num_parameters") or "").split(",") if part)
        total = repo.facts.get("safetensors", repo.facts.get("gguf", {})).get("total", 0)
        units = {"K": 1e3, "M": 1e6, "B": 1e9}

        def number(text: str) -> float:
            return float(text[:-1]) * units[text[-1]] if text[-1] in units else float(text)

        least, most = number(limits.get("min", "0")), number(limits.get("max", "1e18"))
        return least <= total <= most

    def _info(self, repo: str, revision: str) -> None:
        if row := self._repo(repo):
            commit = row.resolve(revision or "main")
            if commit is None:
                self._error(404, {"X-Error-Code": "RevisionNotFound"})
            else:
                self._json(self._facts(row, row.commits[commit], commit, blobs="blobs" in self.query))

    def _tree(self, repo: str, revision: str) -> None:
        row = self._repo(repo)
        commit = row.resolve(revision) if row else None
        if row and commit:
            self._json([_entry(blob) for blob in row.commits[commit].values()])
        elif row:
            self._error(404, {"X-Error-Code": "RevisionNotFound"})

    def _facts(
        self, repo: Repo, files: Mapping[str, Blob], commit: str = "", *, blobs: bool = False
    ) -> dict[str, Any]:
        facts = repo.facts
        licence, library = facts.get("license", ""), facts.get("library_name", "")
        own = [tag for tag in (library, facts.get("pipeline_tag", "")) if tag]
        own += [f"license:{licence}"] if licence else []
        own += ["safetensors"] if any(name.endswith(".safetensors") for name in files) else []
        return {
            "_id": repo.id,
            "id": repo.id,
            "modelId": repo.id,
            "author": repo.id.partition("/")[0],
            "sha": commit or repo.branches["main"],
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2025-01-01T00:00:00.000Z",
            "private": repo.private,
            "gated": repo.gated,
            "disabled": False,
            "downloads": facts.get("downloads", 0),
            "likes": facts.get("likes", 0),
            "library_name": library or None,
            "pipeline_tag": facts.get("pipeline_tag"),
            "tags": own + list(facts.get("tags", [])),
            "cardData": {"license": licence},
            "config": _config(files),
            **{key: facts[key] for key in ("safetensors", "gguf") if key in facts},
            "siblings": [_sibling(blob, blobs) for blob in files.values()],
        }

    # Files

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        row = self._repo(repo, files=True)
        if row is None:
            return
        commit = row.resolve(revision)
        blob = row.commits[commit].get(name) if commit else None
        if commit is None:
            self._error(404, {"X-Error-Code": "RevisionNotFound"})
        elif blob is None:
            self._error(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            known = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": f'"{blob.sha1}"'}
            place = f"{quote(repo)}/{commit}/{quote(name)}"
            if blob.is_large:
                known |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
                self._redirect(302, f"{self.hub.cdn_url}/{place}?signature={self.hub.signed}", known)
            else:
                self._redirect(307, f"{self.hub.prefix}/api/resolve-cache/models/{place}", known)

    def _cached(self, repo: str, commit: str, name: str) -> None:
        row = self._repo(repo, files=True)
        if row is not None:
            self._send(row.commits[commit][name], {"X-Repo-Commit": commit})

    def _cdn(self, path: str) -> None:
        found = re.fullmatch(r"/(.+)/([0-9a-f]{40})/(.+)", path)
        signed = self._one("signature") == str(self.hub.signed)
        if found is None or not signed or self.headers.get("Authorization"):
            return self._error(403, {})
        return self._send(self.hub.repos[found[1]].commits[found[2]][found[3]], {})

    def _send(self, blob: Blob, headers: dict[str, str]) -> None:
        start, end = 0, blob.size
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else blob.size, blob.size)
            if start >= blob.size:
                return self._error(416, {"Content-Range": f"bytes */{blob.size}"})
            headers = headers | {"Content-Range": f"bytes {start}-{end - 1}/{blob.size}"}
        etag = blob.sha256 if blob.is_large else blob.sha1
        self.send_response(206 if asked else 200)
        for key, value in {**headers, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "GET":
            self._body(blob, start, end)
        return None

    def _body(self, blob: Blob, start: int, end: int) -> None:
        hub = self.hub
        cut, held = hub.fault("cut", blob, start, end), hub.fault("hold", blob, start, end)
        wrong = hub.fault("corrupt", blob, start, end)
        stops = sorted({int(blob.size * fault.at) for fault in (cut, held) if fault} | {end})
        at = start
        for stop in stops:
            while at < stop:
                block = blob.read(at, min(at + BLOCK, stop))
                if wrong and at == start:
                    block = bytes([block[0] ^ 1]) + block[1:]
                self.wfile.write(block)
                at += len(block)
                if hub.pace:
                    time.sleep(len(block) / hub.pace)
            self.wfile.flush()
            if held and at == int(blob.size * held.at):
                held.gate.wait()
            if cut and at == int(blob.size * cut.at):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return

    # Answers

    def _repo(self, repo: str, *, files: bool = False) -> Repo | None:
        """The repository, or the Hub's refusal: unknown ones and private ones look the same."""
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if bearer and not bearer.startswith("hf_"):
            self._error(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
            return None
        row = self.hub.repos.get(repo)
        if row is None or (row.private and bearer != TOKEN):
            self._error(404 if bearer else 401, {"X-Error-Code": "RepoNotFound"})
            return None
        if files and row.gated and bearer != TOKEN:
            self._error(403 if bearer else 401, {"X-Error-Code": "GatedRepo"})
            return None
        return row

    def _one(self, name: str) -> str:
        return self.query.get(name, [""])[0]

    def _json(self, value: Any) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _redirect(self, status: int, place: str, headers: dict[str, str]) -> None:
        self._answer(status, {**headers, "Location": place}, b"")

    def _error(self, status: int, headers: dict[str, str]) -> None:
        self._answer(status, {"Content-Type": "application/json", **headers}, b'{"error": "refused"}')

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _config(files: Mapping[str, Blob]) -> dict[str, Any]:
    """The few keys of config.json that the Hub puts into its answers."""
    blob = files.get("config.json")
    whole = json.loads(blob.read(0, blob.size)) if blob else {}
    return {
        key: whole[key]
        for key in ("architectures", "model_type", "auto_map", "quantization_config")
        if key in whole
    }


def _sibling(blob: Blob, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": blob.name}
    row: dict[str, Any] = {"rfilename": blob.name, "size": blob.size, "blobId": blob.sha1}
    if blob.is_large:
        row["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    return row


def _entry(blob: Blob) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": blob.name, "size": blob.size, "oid": blob.sha1}
    if blob.is_large:
        row["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    return row


@pytest.fixture
def hub(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """An empty stand-in that this process, and processes started from now on, take for the Hub."""
    stand_in = HubStandIn()
    settings.HF_ENDPOINT = stand_in.url
    monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
    yield stand_in
    stand_in.close()


def main(port: int) -> None:
    stand_in = HubStandIn(port)
    stand_in.add_tiny()
    stand_in.add_demo()
    print(stand_in.url, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
