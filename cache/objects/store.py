"""Buckets, through obstore: which texts are URLs, and a store whose every error is one line without a secret.

    s3://bucket/key   gs://bucket/key   az://container/key   https://host/key (single objects: nothing lists a web server)

Credentials, regions and endpoints are the library's business: the environment (AWS_*, GOOGLE_*, AZURE_*), else what the machine
or the pod is allowed to do. None of them may stand in a URL. All retries are made here: one loop bounds them, bodies included.
"""

from __future__ import annotations

import os
import posixpath
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote

from cache.errors import InputError
from cache.objects.telling import CLOUDS, Kind, endpoint_trouble, told, told_at_opening
from cache.objects.waiting import Silence

SCHEMES = ("s3", "gs", "az", "https", "http")
TRIES = 7
"""How often a request is made before its trouble is told."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 8.0
"""Before the second try; doubled before each further one. Half of a wait is drawn at random."""
REQUEST_SECONDS, CONNECT_SECONDS, SILENT_SECONDS = 300.0, 10.0, 20.0
"""A request with its whole answer, the connection alone, and the longest silence: whatever takes longer is tried again."""
UNANSWERED_SECONDS = 30.0
"""A store that has not answered once is given up after so long, whatever tries are left: its address is wrong, or the network."""
LISTED_AT_A_TIME = 1000

Result = TypeVar("Result")

_URL = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,2}}(?=[^/])", re.IGNORECASE)  # pathlib makes one slash of two
_DICE = random.Random()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ObjectTrouble(InputError):
    """What went wrong with a store or an object, in one line. kind: `passing` is what another try may mend;

    `missing`: no such object. `no-bucket`: no such bucket. `denied`: no credentials, or not enough. `changed`: the object is not
    the one that was asked for (If-Match). `exists`: it was to be created and is there. `stopped`: the run was told to end.
    """

    def __init__(self, text: str, kind: Kind) -> None:
        super().__init__(text)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.kind)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing tells of it: key, size, time of change in nanoseconds since 1970, and etag ("" where unknown).

    condition: by which `put` knows it again: the etag, on Google Cloud Storage the generation, which a listing does not tell.
    """

    key: str
    size_bytes: int
    mtime_ns: int
    etag: str
    condition: str = ""


def is_remote(location: str | Path) -> bool:
    """Whether this names something in object storage or on a web server, also where pathlib has read it as a path."""
    return _URL.match(str(location)) is not None


def as_location(location: str | Path) -> str | Path:
    """A URL as text, without a slash at its end; anything else as a path."""
    text = str(location)
    found = _URL.match(text)
    return f"{found[1].lower()}://{text[found.end() :]}".rstrip("/") if found else Path(location)


def redacted(url: str) -> str:
    """The URL without what may hold a secret: user, password, query and fragment."""
    scheme, _, rest = url.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def split(url: str) -> tuple[str, str]:
    """(URL of the store, key or prefix in it, "" for all of it). Raises InputError for what is no URL of an object."""
    location = as_location(url)
    if not isinstance(location, str):
        raise InputError(f"{url}: is no URL of object storage ({', '.join(SCHEMES)})")
    scheme, _, rest = location.partition("://")
    host, _, key = rest.partition("/")
    if "@" in host or (scheme.startswith("http") and re.search(r"[?#]", rest)):
        raise InputError(
            f"{redacted(location)}: a URL with a user, a password, a query or a signature is not read; name the object as "
            "s3://, gs:// or az:// and leave credentials to the environment"
        )
    if scheme.startswith("http"):
        key = unquote(key)
    if any(part in ("", ".", "..") for part in key.split("/")) and key:
        raise InputError(f"{redacted(location)}: a key with an empty part, '.' or '..' cannot be named")
    return f"{scheme}://{host}", key


class Objects:
    """A bucket, a container or a web server; see `open_objects`. Methods raise ObjectTrouble. Threads may share one.

    Reads and lists are tried again while their trouble may pass, with waits that double and vary.
    """

    def __init__(self, url: str, store: Any, stop: threading.Event | None) -> None:
        self.url = url
        self._store = store
        self._stop = stop or threading.Event()
        self._has_answered, self._first_asked = False, 0.0
        self._silence = Silence(url)

    def name(self, key: str) -> str:
        """The object's URL."""
        return f"{self.url}/{key}"

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Everything below a prefix (a whole folder name), page by page, in the store's order."""
        import obstore

        last: str | None = None
        failed = 0
        self._first_asked = self._first_asked or time.monotonic()
        while True:
            after = last or ""  # not every server heeds an offset
            asked_at = time.monotonic()
            try:
                pages = obstore.list(
                    self._store, prefix=prefix or None, offset=last, chunk_size=LISTED_AT_A_TIME
                )
                for page in pages:
                    yield from (_described(one, self.url) for one in page if one["path"] > after)
                    last, failed = max(last or "", page[-1]["path"]) if page else last, 0
                self._answered()
                return
            except _errors() as error:
                failed += 1
                self._bear(error, self.name(prefix), failed, asked_at)

    def look(self, key: str) -> StoredObject:
        """What an object is now."""
        import obstore

        return _described(self._again(key, lambda: obstore.head(self._store, key)), self.url)

    def read(self, key: str, start: int, end: int, etag: str = "") -> tuple[bytes, StoredObject]:
        """Bytes `start` to `end` of an object, fewer only where it ends before, and what the object is.

        etag: what it must still be. Raises ObjectTrouble (`changed`) where it is not.
        """
        return self._get(key, etag, (start, end))

    def read_all(self, key: str, etag: str = "") -> tuple[bytes, StoredObject]:
        """A small object whole; works where a server knows no ranges."""
        return self._get(key, etag, None)

    def _get(self, key: str, etag: str, part: tuple[int, int] | None) -> tuple[bytes, StoredObject]:
        import obstore

        options: Any = ({"range": part} if part else {}) | ({"if_match": etag} if etag else {})

        def get() -> tuple[bytes, StoredObject]:
            answer = obstore.get(self._store, key, options=options)
            data = bytes(answer.bytes())  # a body that is cut raises here
            found = _described(answer.meta, self.url)
            start, end = part or (0, found.size_bytes)
            if len(data) != min(end, found.size_bytes) - start:
                raise OSError(f"{len(data)} bytes came")
            return data, found

        return self._again(key, get)

    def put(self, key: str, data: bytes, *, create: bool = False, etag: str = "") -> str:
        """Write an object; returns its etag. create: only where none is there. etag: only in the place of this one.

        On Google Cloud Storage generations stand in for etags here (`StoredObject.condition`).

        A conditional write whose answer was lost (`passing`) may have been done: it is not repeated here, look at the object.
        Raises ObjectTrouble (`exists`, `changed`).
        """
        import obstore

        by = _condition(self.url)
        mode: Any = "create" if create else ({by: etag} if etag else "overwrite")

        def put() -> str:
            return str(obstore.put(self._store, key, data, mode=mode, use_multipart=False)[by] or "")

        return self._again(key, put, tries=1 if create or etag else TRIES)

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects. One that is not there is trouble (`missing`), but on S3, and what follows it may be left."""
        import obstore

        if keys:
            self._again(keys[0], lambda: obstore.delete(self._store, list(keys)))

    def _again(self, key: str, call: Callable[[], Result], tries: int | None = None) -> Result:
        failed = 0
        self._first_asked = self._first_asked or time.monotonic()
        while True:
            asked_at = time.monotonic()
            try:
                result = call()
                self._answered()
                return result
            except _errors() as error:
                failed += 1
                self._bear(error, self.name(key), failed, asked_at, tries)

    def _answered(self) -> None:
        self._has_answered = True
        self._silence.ended()

    def _bear(
        self, error: BaseException, what: str, failed: int, asked_at: float, tries: int | None = None
    ) -> None:
        """Wait after trouble that may pass. Raises ObjectTrouble where it does not, or was borne often or long enough."""
        found = told(error, self.url)
        self._has_answered |= not found.away
        if found.kind != "passing":
            self._silence.ended()
        elif not self._stop.is_set():
            self._silence.goes_on(found.text, asked_at)
        given_up = not self._has_answered and time.monotonic() - self._first_asked > UNANSWERED_SECONDS
        if found.kind != "passing" or failed >= (tries or TRIES) or given_up:
            often = f", {failed} times" if failed > 1 else ""
            todo = f"; {found.todo}" if found.todo else ""
            raise ObjectTrouble(
                f"{what}: {found.text}{often}{todo}", found.kind
            ) from None  # its own text may hold secrets
        wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (failed - 1))
        if self._stop.wait(wait * _DICE.uniform(0.5, 1.0)):
            raise ObjectTrouble(f"{what}: the run was told to end", "stopped") from None


def open_objects(url: str, stop: threading.Event | None = None) -> Objects:
    """The store that a URL lies in; nothing is asked of it yet. stop: set to end waits for another try.

    Raises InputError where obstore is not installed, and ObjectTrouble where the store's settings cannot be used.
    """
    store_url, _ = split(url)
    try:
        from obstore.store import HTTPStore, from_url
    except ImportError as error:
        raise InputError(
            f"{store_url}: object storage needs a library: pip install 'onepass[objects]'"
        ) from error
    client: Any = {
        "timeout": timedelta(seconds=REQUEST_SECONDS),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=SILENT_SECONDS),
        "allow_http": store_url.startswith("http://")
        or any(
            os.environ.get(cloud.allow_http, "").lower() in ("1", "true", "yes") for cloud in CLOUDS.values()
        ),
    }
    none = timedelta()
    retry: Any = {
        "max_retries": 0,
        "retry_timeout": timedelta(seconds=REQUEST_SECONDS),
        "backoff": {"init_backoff": none, "max_backoff": none, "base": 2},
    }
    if wrong := endpoint_trouble(store_url):  # of which the library makes a panic
        raise ObjectTrouble(f"{store_url}: {wrong}", "unusable")
    make: Any = HTTPStore.from_url if store_url.startswith("http") else from_url
    expected: tuple[type[BaseException], ...] = (*_errors(), ValueError)
    try:
        store = make(store_url, client_options=client, retry_config=retry)
    except expected as error:
        found = told_at_opening(error, store_url)
        raise ObjectTrouble(f"{store_url}: {found.text}", found.kind) from None
    return Objects(store_url, store, stop)


def _errors() -> tuple[type[BaseException], ...]:
    """What obstore raises: an object that is not there is a FileNotFoundError of Python's."""
    from obstore.exceptions import BaseError

    return (BaseError, OSError)


def _condition(url: str) -> Literal["e_tag", "version"]:
    return "version" if url.startswith("gs:") else "e_tag"


def _described(meta: Any, url: str) -> StoredObject:
    """Of obstore's mapping. Times are whole microseconds, so that no float rounds them."""
    changed = (meta["last_modified"] - _EPOCH) // timedelta(microseconds=1) * 1000
    etag = _quoted(str(meta["e_tag"] or ""))
    condition = etag if _condition(url) == "e_tag" else str(meta["version"] or "")
    return StoredObject(str(meta["path"]), int(meta["size"]), int(changed), etag, condition)


def _quoted(etag: str) -> str:
    """An etag as answers for the object itself give it: listings of Azure leave the quotation marks out."""
    return f'"{etag}"' if etag and not etag.endswith('"') else etag


def base_name(url: str) -> str:
    """The last part of a URL: what a data set in it is called."""
    return posixpath.basename(redacted(url).rstrip("/"))
