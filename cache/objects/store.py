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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote

from cache.errors import InputError

SCHEMES = ("s3", "gs", "az", "https", "http")
TRIES = 7
"""How often a request is made before its trouble is told."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 8.0
"""Before the second try; doubled before each further one. Half of a wait is drawn at random."""
REQUEST_SECONDS, CONNECT_SECONDS, SILENT_SECONDS = 300.0, 10.0, 20.0
"""A request with its whole answer, the connection alone, and the longest silence: whatever takes longer is tried again."""
LISTED_AT_A_TIME = 1000

Kind = Literal["missing", "denied", "changed", "exists", "passing", "unusable", "stopped"]
Result = TypeVar("Result")

_URL = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,2}}(?=[^/])", re.IGNORECASE)  # pathlib makes one slash of two
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_PASSING = ("408", "429", "500", "502", "503", "504")
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
_DICE = random.Random()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ObjectTrouble(InputError):
    """What went wrong with a store or an object, in one line. kind: `passing` is what another try may mend;

    `missing`: no such object or bucket. `denied`: no credentials, or not enough. `changed`: the object is not the one that was
    asked for (If-Match). `exists`: it was to be created and is there. `stopped`: the run was told to end.
    """

    def __init__(self, text: str, kind: Kind) -> None:
        super().__init__(text)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.kind)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing tells of it: key, size, time of change in nanoseconds since 1970, and etag ("" where unknown).

    condition: by which `put` knows it again: the etag, on Google Cloud Storage the generation.
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

    def name(self, key: str) -> str:
        """The object's URL."""
        return f"{self.url}/{key}"

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Everything below a prefix (a whole folder name), page by page, in the store's order."""
        import obstore

        last: str | None = None
        failed = 0
        while True:
            try:
                pages = obstore.list(
                    self._store, prefix=prefix or None, offset=last, chunk_size=LISTED_AT_A_TIME
                )
                for page in pages:
                    yield from map(_described, page)
                    last, failed = page[-1]["path"] if page else last, 0
                return
            except _errors() as error:
                failed += 1
                self._bear(error, self.name(prefix), failed)

    def look(self, key: str) -> StoredObject:
        """What an object is now."""
        import obstore

        return _described(self._again(key, lambda: obstore.head(self._store, key)))

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
        """Remove objects. One that is not there is trouble (`missing`) in a folder, none in a bucket."""
        import obstore

        if keys:
            self._again(keys[0], lambda: obstore.delete(self._store, list(keys)))

    def _again(self, key: str, call: Callable[[], Result], tries: int | None = None) -> Result:
        failed = 0
        while True:
            try:
                return call()
            except _errors() as error:
                failed += 1
                self._bear(error, self.name(key), failed, tries)

    def _bear(self, error: BaseException, what: str, failed: int, tries: int | None = None) -> None:
        """Wait after trouble that may pass. Raises ObjectTrouble where it does not, or was borne often enough."""
        text, kind = _told(error)
        if kind != "passing" or failed >= (tries or TRIES):
            often = f", {failed} times" if failed > 1 else ""
            raise ObjectTrouble(f"{what}: {text}{often}", kind) from None  # its own text may hold secrets
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
        or any(os.environ.get(name, "").lower() in ("1", "true", "yes") for name in _ALLOW_HTTP),
    }
    none = timedelta()
    retry: Any = {
        "max_retries": 0,
        "retry_timeout": timedelta(seconds=REQUEST_SECONDS),
        "backoff": {"init_backoff": none, "max_backoff": none, "base": 2},
    }
    make: Any = HTTPStore.from_url if store_url.startswith("http") else from_url
    expected: tuple[type[BaseException], ...] = (*_errors(), ValueError)
    try:
        store = make(store_url, client_options=client, retry_config=retry)
    except expected as error:
        text, kind = _told(error)
        raise ObjectTrouble(f"{store_url}: {text}", kind) from None
    return Objects(store_url, store, stop)


def _errors() -> tuple[type[BaseException], ...]:
    """What obstore raises: an object that is not there is a FileNotFoundError of Python's."""
    from obstore.exceptions import BaseError

    return (BaseError, OSError)


def _told(error: BaseException) -> tuple[str, Kind]:
    """What an error says, from its type, its status and the store's code alone: its own text may hold URLs and keys."""
    text = str(error)
    names = {each.__name__ for each in type(error).__mro__}
    status = _STATUS.search(text)
    code = _CODE.search(text)
    told = " ".join(part[1] for part in (status, code) if part)
    if "169.254.169.254" in text or "token request" in text:
        return (
            "no credentials were found (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for "
            "a public bucket)",
            "denied",
        )
    if "AlreadyExistsError" in names:
        return "is there already", "exists"
    if "PreconditionError" in names:
        return "is not what it was", "changed"
    if "FileNotFoundError" in names or (status and status[1] == "404"):
        return f"is not there ({told or '404'})", "missing"
    if names & {"PermissionDeniedError", "UnauthenticatedError"} or (status and status[1] in ("401", "403")):
        return f"access was denied ({told or '403'}); check the credentials in the environment", "denied"
    if "NotSupportedError" in names:
        return (
            "the server gives no parts of an object (Range), so that only small ones can be read",
            "unusable",
        )
    if "InvalidPathError" in names:
        path = re.search(r'[Pp]ath:? "([^"\n]{1,200})"', text)
        where = f" {path[1]!r}" if path else ""
        return f"the key{where} cannot be named (an empty part, '.', '..' or a control character)", "unusable"
    if status:
        return f"the store answered {told}", "passing" if status[1] in _PASSING else "unusable"
    for sign, why in _SETTINGS:
        if sign in text:
            return why, "unusable"
    cause = next((why for sign, why in _CAUSES if sign in text), "")
    if cause or "GenericError" in names or isinstance(error, OSError):
        return cause or "the connection failed or the answer was cut", "passing"
    return f"cannot be used ({type(error).__name__})", "unusable"


_SETTINGS = (
    ("BadScheme", "the endpoint is http://, which AWS_ALLOW_HTTP=true allows"),
    ("Account must be specified", "no account was named (AZURE_STORAGE_ACCOUNT_NAME)"),
)
_CAUSES = (
    ("kind: Connect", "no connection"),
    ("kind: Timeout", "no answer in time"),
    ("TimedOut", "no answer in time"),
)


def _condition(url: str) -> Literal["e_tag", "version"]:
    return "version" if url.startswith("gs:") else "e_tag"


def _described(meta: Any, url: str = "") -> StoredObject:
    """Of obstore's mapping. Times are whole microseconds, so that no float rounds them."""
    changed = (meta["last_modified"] - _EPOCH) // timedelta(microseconds=1) * 1000
    return StoredObject(
        str(meta["path"]),
        int(meta["size"]),
        int(changed),
        str(meta["e_tag"] or ""),
        str(meta[_condition(url)] or ""),
    )


def base_name(url: str) -> str:
    """The last part of a URL: what a data set in it is called."""
    return posixpath.basename(redacted(url).rstrip("/"))
