"""What trouble of a store means, told from its type, its status and the store's code alone: its text may hold URLs and keys."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["missing", "no-bucket", "denied", "changed", "exists", "passing", "unusable", "stopped"]


@dataclass(frozen=True, slots=True)
class Told:
    """away: nothing answered at all. todo: what a user can do, said once the trouble is not borne any longer."""

    text: str
    kind: Kind
    todo: str = ""
    away: bool = False


@dataclass(frozen=True, slots=True)
class Cloud:
    """Words and variables of the environment by which one kind of store is reached.

    files: those that name a file. names: those from which the address of the store is made.
    """

    bucket: str
    prefix: str
    credentials: str
    endpoints: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def allow_http(self) -> str:
        """The variable that allows an endpoint of http://."""
        return f"{self.prefix}_ALLOW_HTTP"


CLOUDS = {
    "s3": Cloud(
        "bucket",
        "AWS",
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
        ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"),
    ),
    "gs": Cloud(
        "bucket",
        "GOOGLE",
        "GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS with the path of their JSON file, or "
        "GOOGLE_SKIP_SIGNATURE=true for a public bucket",
        ("GOOGLE_BASE_URL",),
        ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_APPLICATION_CREDENTIALS"),
    ),
    "az": Cloud(
        "container",
        "AZURE",
        "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, or AZURE_CLIENT_ID with AZURE_CLIENT_SECRET and AZURE_TENANT_ID; "
        "AZURE_SKIP_SIGNATURE=true for a public container",
        ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
        ("AZURE_FEDERATED_TOKEN_FILE",),
        ("AZURE_STORAGE_ACCOUNT_NAME",),
    ),
}
_WEB = Cloud("server", "", "")

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_ASKED = re.compile(r"performing [A-Z]+ (https?://[^\s?#]+)")
_FILE_TROUBLE = re.compile(r"Unable to open service account file from [^\n]*: ([\w ]{1,60}) \(os error")
_PASSING = ("408", "429", "500", "502", "503", "504")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_NO_ROLE = ("169.254.169.254", "metadata.google.internal")
"""Who is asked for the role of a machine where no credentials are given."""
_SETTINGS = (
    ("Account must be specified", "no account was named (AZURE_STORAGE_ACCOUNT_NAME)"),
    ("Invalid Access Key", "AZURE_STORAGE_ACCOUNT_KEY is no key: it is not base64"),
    ("SAS query", "AZURE_STORAGE_SAS_TOKEN is no shared access signature (name=value&...)"),
    ("'az account get-access-token'", "AZURE_USE_AZURE_CLI is set, and 'az account get-access-token' fails"),
    (
        "One of service account path or service account key",
        "give GOOGLE_SERVICE_ACCOUNT or GOOGLE_SERVICE_ACCOUNT_KEY, not both",
    ),
    ("Unable to decode service account", "the service account's JSON cannot be read, or lacks a field"),
    ("Invalid RSA key", "the private key in the service account's JSON cannot be read"),
    ("Error reading pem file", "the private key in the service account's JSON cannot be read"),
    ("as boolean", "a variable of the environment is neither true nor false"),
)
_CAUSES = (
    ("kind: Connect", "no connection", "to"),
    ("kind: Timeout", "no answer in time", "from"),
    ("TimedOut", "no answer in time", "from"),
)


def cloud_of(url: str) -> Cloud:
    """How the store of a URL is reached."""
    return CLOUDS.get(url.partition(":")[0], _WEB)


def endpoint_trouble(url: str) -> str:
    """What is wrong with the endpoint that the environment names for the store of a URL, "" where nothing is."""
    for name in cloud_of(url).endpoints:
        try:
            found = urlsplit(os.environ.get(name, "http://host"))
            usable = found.scheme in ("http", "https") and bool(found.hostname)
        except ValueError:
            usable = False
        if not usable:
            return f"{name} in the environment is no http:// or https:// address"
    return ""


def told_at_opening(error: BaseException, url: str) -> Told:
    """As `told`, of what was raised before anything was asked: settings that cannot be used."""
    found = told(error, url)
    if found.kind != "passing":
        return found
    return Told(
        f"cannot be opened with the {cloud_of(url).prefix}_* variables of the environment", "unusable"
    )


def told(error: BaseException, url: str) -> Told:
    """What an error of the store at `url` means."""
    text, cloud = str(error), cloud_of(url)
    names = {each.__name__ for each in type(error).__mro__}
    status, code = _STATUS.search(text), _CODE.search(text)
    said = " ".join(part[1] for part in (status, code) if part)
    if cloud.credentials and ("token request" in text or "169.254.169.254" in text):
        return _of_token(text, cloud, said)
    if "AlreadyExistsError" in names:
        return Told("is there already", "exists")
    if "PreconditionError" in names:
        return Told("is not what it was", "changed")
    if code and code[1] in _NO_BUCKET:
        todo = f"make it, or correct its name{' or the account' if cloud.bucket == 'container' else ''}"
        return Told(f"there is no such {cloud.bucket} ({said})", "no-bucket", todo)
    if (found := _FILE_TROUBLE.search(text)) or "Error reading federated token file" in text:
        given = " or ".join(name for name in cloud.files if name in os.environ) or "the environment"
        return Told(
            f"the file that {given} names cannot be read{f': {found[1]}' if found else ''}", "unusable"
        )
    if "FileNotFoundError" in names or (status and status[1] == "404"):
        return Told(f"is not there ({said or '404'})", "missing")
    if names & {"PermissionDeniedError", "UnauthenticatedError"} or (status and status[1] in ("401", "403")):
        where = f" ({cloud.prefix}_*)" if cloud.prefix else ""
        return Told(
            f"access was denied ({said or '403'}); check the credentials in the environment{where}", "denied"
        )
    if "NotSupportedError" in names:
        return Told(
            "the server gives no parts of an object (Range), so that only small ones can be read", "unusable"
        )
    if "InvalidPathError" in names:
        path = re.search(r'[Pp]ath:? "([^"\n]{1,200})"', text)
        where = f" {path[1]!r}" if path else ""
        return Told(
            f"the key{where} cannot be named (an empty part, '.', '..' or a control character)", "unusable"
        )
    if status:
        return Told(f"the store answered {said}", "passing" if status[1] in _PASSING else "unusable")
    if "BadScheme" in text:
        return Told(f"the endpoint is http://, which {cloud.allow_http}=true allows", "unusable")
    for sign, why in _SETTINGS:
        if sign in text:
            return Told(why, "unusable")
    if cause := _cause(text):
        return Told(cause, "passing", _check(cloud), away=True)
    if "GenericError" in names or isinstance(error, OSError):
        return Told("the connection failed or the answer was cut", "passing")
    return Told(f"cannot be used ({type(error).__name__})", "unusable")


def _of_token(text: str, cloud: Cloud, said: str) -> Told:
    """Of credentials that are changed for a token first, or asked of the machine where there are none."""
    if any(name in text for name in _NO_ROLE):
        return Told(f"no credentials were found ({cloud.credentials})", "denied")
    which = "which makes a token of the credentials"
    if cause := _cause(text):
        return Told(f"{cause}, {which}", "passing", "check the network", away=True)
    return Told(
        f"access was denied ({said or 'no token'}) by {_host(text) or 'the server'}, {which}; check them",
        "denied",
    )


def _cause(text: str) -> str:
    """Why nothing came, and from where; "" where something did."""
    for sign, why, word in _CAUSES:
        if sign in text:
            host = _host(text)
            return f"{why} {word} {host}" if host else why
    return ""


def _host(text: str) -> str:
    """HOST:PORT of the request that a text tells of, never more of its URL."""
    try:
        asked = urlsplit(found[1]) if (found := _ASKED.search(text)) else None
        return f"{asked.hostname}{f':{asked.port}' if asked.port else ''}" if asked and asked.hostname else ""
    except ValueError:
        return ""


def _check(cloud: Cloud) -> str:
    given = " and ".join(name for name in (*cloud.endpoints, *cloud.names) if name in os.environ)
    return f"check the network{f' and {given}' if given else ''}"
