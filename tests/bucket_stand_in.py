"""A bucket to talk to: a real HTTP server with the few routes of S3 that reading needs.

    def test_it_…(bucket: BucketStandIn) -> None:    # a fixture: the bucket NAME, opened by KEY and SECRET
        bucket.put("llama/config.json", b"{}")
        bucket.address("llama")                      # "s3://models/llama"
        bucket.url                                   # the endpoint for the team's credentials

`bucket.seen` lists every request as (method, key or "?list", range). Faults, until they happened once:
    bucket.cut("llama/model.safetensors")            # half of the next answer comes
    bucket.corrupt("llama/model.safetensors")        # a byte of the next answer is another one
    bucket.fail(503, times=3)                        # that status for every route
"""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

NAME, KEY, SECRET = "models", "AKIASTANDINSTANDIN01", "the-stand-ins-secret"
# A listing comes in pages, so that whoever reads only the first one is found out.
PAGE = 3


@dataclass
class BucketStandIn:
    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    encrypted: bool = False
    public: bool = False
    faults: dict[str, str] = field(default_factory=dict)
    failing: list[int] = field(default_factory=list)

    def put(self, key: str, content: bytes, etag: str = "") -> None:
        self.objects[key] = content
        self.etags[key] = etag or hashlib.md5(content).hexdigest()

    def address(self, prefix: str) -> str:
        return f"s3://{NAME}/{prefix}"

    def cut(self, key: str) -> None:
        self.faults[key] = "cut"

    def corrupt(self, key: str) -> None:
        self.faults[key] = "corrupt"

    def fail(self, status: int, times: int = 1) -> None:
        self.failing = [status] * times

    def read(self, key: str) -> list[str]:
        """The ranges of an object that were asked for."""
        return [ranges for method, found, ranges in self.seen if method == "GET" and found == key]

    def listing(self, query: dict[str, list[str]]) -> str:
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        page = keys[:PAGE]
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[key])}</Size>"
            f"<ETag>&quot;{self.etags[key]}&quot;</ETag></Contents>"
            for key in page
        )
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if keys[PAGE:] else ""
        return (
            f"<ListBucketResult><Name>{NAME}</Name><IsTruncated>{str(bool(more)).lower()}</IsTruncated>"
            f"{more}{rows}</ListBucketResult>"
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: BucketStandIn

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        name, _, key = unquote(url.path).lstrip("/").partition("/")
        ranges = self.headers.get("Range", "")
        self.bucket.seen.append((self.command, key or "?list", ranges))
        if self.bucket.failing:
            return self._error(self.bucket.failing.pop(), "ServiceUnavailable")
        if not self.bucket.public and f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
            return self._error(403, "InvalidAccessKeyId")
        if name != NAME:
            return self._error(404, "NoSuchBucket")
        if not key:
            return self._send(200, self.bucket.listing(parse_qs(url.query)).encode(), {})
        if key not in self.bucket.objects:
            return self._error(404, "NoSuchKey")
        return self._object(key, ranges)

    def _object(self, key: str, ranges: str) -> None:
        etag, content = f'"{self.bucket.etags[key]}"', self.bucket.objects[key]
        if self.headers.get("If-Match", etag) != etag:
            return self._error(412, "PreconditionFailed")
        headers = {"ETag": etag}
        if self.bucket.encrypted:
            headers["x-amz-server-side-encryption"] = "aws:kms"
        if not ranges:
            return self._send(200, content, headers)
        start, end = (int(number) for number in ranges.removeprefix("bytes=").split("-"))
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self._send(206, content[start : end + 1], headers, self.bucket.faults.pop(key, ""))

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: str = "") -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if fault == "cut":
            body, self.close_connection = body[: len(body) // 2], True
        elif fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if self.command == "GET":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._send(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode(), {})

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: `seen` has it all."""


@pytest.fixture
def bucket() -> Iterator[BucketStandIn]:
    stand_in = BucketStandIn()
    handler = type("Handler", (_Handler,), {"bucket": stand_in})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield stand_in
    server.shutdown()
    server.server_close()
    thread.join()
