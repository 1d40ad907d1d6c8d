"""A script that knows the management API and nothing else: from a folder of files to an endpoint."""

import hashlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx2 as httpx

from tests.fleet import until
from tests.gateway_site import Site

PIECE = 100
WITHIN_S = 40.0


@dataclass
class Script:
    """Calls by a token, as curl would."""

    site: Site
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def ask(self, method: str, path: str, body: Any = None, status: int | None = None) -> Any:
        """What is answered; the test fails where that is no success, or not `status`."""
        url = f"{self.site.url}/api/v1{path}"
        answer = httpx.request(method, url, json=body, headers=self.headers, timeout=20)
        assert answer.status_code == status if status else answer.is_success, answer.text
        return answer.json() if answer.content else None

    def until(self, path: str, holds: Callable[[Any], bool]) -> Any:
        """What stands there once it holds."""

        def look() -> Any:
            found = self.ask("GET", path)
            return found if holds(found) else None

        return until(f"{path} is as it should be", look, WITHIN_S)

    # Files

    def put(self, pk: int, offset: int, piece: bytes, sha256: str = "") -> httpx.Response:
        at = urlencode({"offset": offset, "sha256": sha256 or digest(piece)})
        headers = self.headers | {"content-type": "application/octet-stream"}
        url = f"{self.site.url}/api/v1/uploads/{pk}?{at}"
        return httpx.put(url, content=piece, headers=headers, timeout=20)

    def break_off(self, pk: int, offset: int, piece: bytes) -> None:
        """Begin to send a piece, and hang up in the middle of it."""
        head = [
            f"PUT /api/v1/uploads/{pk}?offset={offset} HTTP/1.1",
            f"Host: 127.0.0.1:{self.site.port}",
            f"Authorization: Bearer {self.token}",
            "Content-Type: application/octet-stream",
            f"Content-Length: {len(piece)}",
        ]
        with socket.create_connection(("127.0.0.1", self.site.port)) as line:
            line.sendall("\r\n".join([*head, "", ""]).encode() + piece[: len(piece) // 2])

    def send(self, name: str, path: str, data: bytes) -> None:
        """One file, from where the site has it, which must be the same one."""
        given = {"name": name, "path": path, "size_bytes": len(data), "sha256": digest(data)}
        begun = self.ask("POST", "/uploads", given)
        received = begun["received_bytes"]
        if begun["tail_bytes"]:
            assert digest(data[received - begun["tail_bytes"] : received]) == begun["tail_sha256"]
        while received < len(data):
            sent = self.put(begun["id"], received, data[received : received + PIECE])
            assert sent.status_code == 200, sent.text
            received = sent.json()["received_bytes"]

    def model(self, name: str, files: Mapping[str, bytes]) -> int:
        """The model that comes of these files."""
        for path, data in files.items():
            self.send(name, path, data)
        job = self.ask("POST", "/uploads/finish", {"name": name}, 202)
        ended = self.until(f"/jobs/{job['id']}", lambda row: row["state"] not in ("queued", "running"))
        assert ended["state"] == "done", ended["error"]
        return int(ended["result"]["model"])

    # What runs

    def started(self, model: int) -> int:
        """A deployment of it on the fake engine, once it is ready."""
        made = self.ask("POST", "/deployments", {"model": model, "engine": "fake"}, 201)
        path = f"/deployments/{made['id']}"
        self.until(path, lambda row: row["state"] == "ready")
        return int(made["id"])

    def said(self, deployment: int, text: str) -> str:
        """What it answers in a conversation."""
        chat = self.ask("POST", "/conversations", {"deployment": deployment}, 201)
        turn = self.ask("POST", f"/conversations/{chat['id']}/messages", {"text": text}, 201)
        (answer,) = turn["answers"]
        path = f"/answers/{answer['id']}"
        whole = self.until(path, lambda row: row["state"] not in ("pending", "streaming"))
        assert whole["state"] == "complete", whole
        return str(whole["text"])


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
