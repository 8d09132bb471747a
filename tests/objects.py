"""A bucket of S3 in this process, for tests: what obstore asks of one, and the faults that a real one has on bad days.

Google's XML API is the same but for generations, which are counted here. `faults[key]` are consumed a request each:
"503", "403", "404", "404 NoSuchBucket" (the store's code), "cut" (half the body, then the connection ends), "hang" (the answer
comes after `hang_seconds`), "lost" (a put is done, its answer never comes); the key of a listing is "". `asked` counts requests
by method and key.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

import pytest

from cache.objects import store as store_module

BUCKET = "bucket"
SECRET, KEY_ID = "tHeSeCrEtOfTheTests", "AKIATHEKEYOFTHETESTS"
CODES = {403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed", 503: "SlowDown"}


class Server(ThreadingHTTPServer):
    """Objects by key: bytes and time of change in whole seconds."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.faults: defaultdict[str, deque[str]] = defaultdict(deque)
        self.asked: Counter[tuple[str, str]] = Counter()
        self.headers: list[str] = []
        self.before_get: Callable[[str], None] = lambda _: None
        self.page = 1000
        self.ranges = self.quoted = self.offsets = True
        self.generations: Counter[str] = Counter()
        self.hang_seconds = 3.0
        self.lock = threading.Lock()

    def handle_error(self, *_: Any) -> None:
        """A client that hung up is no matter."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, key: str, data: bytes, changed: int = 1_700_000_000) -> None:
        self.objects[key] = (data, changed)
        self.generations[key] += 1

    def put_tree(self, root: Path, prefix: str) -> None:
        """Every file below a folder, with the file's time of change."""
        for path in sorted(root.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(root).as_posix()}"
                self.put(key, path.read_bytes(), int(path.stat().st_mtime))

    def gets(self, below: str = "") -> int:
        """How many bodies were asked for."""
        return sum(n for (method, key), n in self.asked.items() if method == "GET" and key and below in key)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def _begin(self) -> tuple[str, dict[str, str], str]:
        url = urlsplit(self.path)
        key = unquote(url.path).removeprefix("/").partition("/")[2]
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        with self.server.lock:
            self.server.asked[self.command, key] += 1
            self.server.headers.append(str(self.headers))
            waiting = self.server.faults[key]
            return key, query, waiting.popleft() if waiting else ""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str = "") -> None:
        said = f"<Error><Code>{code or CODES[status]}</Code><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId></Error>"
        self._answer(status, said.encode())

    def do_GET(self) -> None:
        key, query, fault = self._begin()
        if fault == "hang":
            time.sleep(self.server.hang_seconds)
        if fault[:3].isdigit():
            self._refuse(int(fault[:3]), fault[4:])
        elif "list-type" in query:
            self._list(query)
        else:
            self._get(key, cut=fault == "cut")

    do_HEAD = do_GET

    def _get(self, key: str, *, cut: bool) -> None:
        if self.command == "GET":
            self.server.before_get(key)
        if key not in self.server.objects:
            self._refuse(404)
            return
        data, changed = self.server.objects[key]
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        if self.headers.get("If-Match", etag) != etag:
            self._refuse(412)
            return
        common = {"ETag": etag, "Last_Modified": formatdate(changed, usegmt=True)}
        common["x_goog_generation"] = str(self.server.generations[key])
        asked = self.headers.get("Range") if self.server.ranges else None
        status, body = 200, data
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            body = data[int(first) : int(last) + 1]
            if not body:
                self._refuse(416, "InvalidRange")
                return
            status = 206
            common["Content_Range"] = f"bytes {first}-{int(first) + len(body) - 1}/{len(data)}"
        common["Content_Length"] = str(len(body))
        self._answer(status, body[: len(body) // 2] if cut else body, **common)
        if cut:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(2)

    def _list(self, query: dict[str, str]) -> None:
        after = query.get("continuation-token") or (self.server.offsets and query.get("start-after")) or ""
        keys = sorted(key for key in self.server.objects if key.startswith(query.get("prefix", "")))
        keys = [key for key in keys if key > after]
        page, more = keys[: self.server.page], keys[self.server.page :]
        rows = []
        for key in page:
            data, changed = self.server.objects[key]
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(changed))
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            mark = "&quot;" if self.server.quoted else ""
            rows.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
                f"<ETag>{mark}{etag}{mark}</ETag><Size>{len(data)}</Size></Contents>"
            )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        self._answer(
            200,
            (
                f"<ListBucketResult><Name>{BUCKET}</Name><KeyCount>{len(page)}</KeyCount>"
                f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{token}{''.join(rows)}</ListBucketResult>"
            ).encode(),
            Content_Type="application/xml",
        )

    def do_PUT(self) -> None:
        key, _, fault = self._begin()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault == "hang":
            time.sleep(self.server.hang_seconds)
        if fault[:3].isdigit():
            self._refuse(int(fault[:3]), fault[4:])
            return
        with self.server.lock:  # of two conditional puts at one moment one holds
            there = self.server.objects.get(key)
            etag = there and f'"{hashlib.md5(there[0], usedforsecurity=False).hexdigest()}"'
            holds = not (self.headers.get("If-None-Match") and there)
            generation = self.server.generations[key] if there else 0
            holds = holds and self.headers.get("x-goog-if-generation-match", str(generation)) == str(
                generation
            )
            if holds := holds and self.headers.get("If-Match", etag) == etag:
                self.server.put(key, body, int(time.time()))
                generation = self.server.generations[key]
        if fault == "lost":
            self.close_connection = True
            self.connection.shutdown(2)
        elif holds:
            etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
            self._answer(200, ETag=etag, x_goog_generation=str(generation))
        else:
            self._refuse(412)

    def do_DELETE(self) -> None:
        """As Google does it, an object at a time."""
        key, _, _ = self._begin()
        there = self.server.objects.pop(key, None)
        self._answer(204 if there else 404)

    def do_POST(self) -> None:
        """Several objects are deleted."""
        self._begin()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        keys = [unescape(key) for key in re.findall("<Key>(.*?)</Key>", body)]
        for key in keys:
            self.server.objects.pop(key, None)
        told = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{told}</DeleteResult>".encode())


@contextmanager
def serving() -> Iterator[Server]:
    """A server of one empty bucket, with the environment that leads obstore to it."""
    server = Server()
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        point_at(server.address, patch)
        try:
            yield server
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture(scope="module")
def serve() -> Iterator[Server]:
    """A server for the tests of a module, which import it; `emptied` before each."""
    with serving() as server:
        yield server


def emptied(server: Server, patch: pytest.MonkeyPatch) -> Server:
    """The server without objects, faults and memories; waits for another try are short."""
    patch.setattr(store_module, "FIRST_WAIT_SECONDS", 0.001)
    for memory in (server.objects, server.faults, server.asked, server.headers):
        memory.clear()
    server.before_get = lambda _: None
    server.page, server.quoted, server.offsets = 1000, True, True
    return server


def point_at(address: str, patch: pytest.MonkeyPatch) -> None:
    """The environment that leads obstore to a server of S3."""
    patch.setenv("AWS_ENDPOINT_URL", address)
    patch.setenv("AWS_ALLOW_HTTP", "true")
    patch.setenv("AWS_REGION", "us-east-1")
    patch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    patch.delenv("AWS_SESSION_TOKEN", raising=False)


def point_google_at(address: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The environment that leads obstore's store of gs:// to a server, by a service account as its makers' own tests have it."""
    account = {"gcs_base_url": address, "disable_oauth": True, "client_email": "", "private_key": SECRET}
    path = folder / "account.json"
    path.write_text(json.dumps({**account, "private_key_id": KEY_ID}), encoding="utf-8")
    for name in [name for name in os.environ if name.startswith("GOOGLE_")]:
        patch.delenv(name)
    patch.setenv("GOOGLE_SERVICE_ACCOUNT", str(path))
    patch.setenv("GOOGLE_ALLOW_HTTP", "true")
