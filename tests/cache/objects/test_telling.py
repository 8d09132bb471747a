from __future__ import annotations

import os
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from cache.objects.store import ObjectTrouble, open_objects
from cache.objects.telling import told
from tests.objects import SECRET

ACCOUNT = {"AZURE_STORAGE_ACCOUNT_NAME": "account"}
ENDPOINT = {**ACCOUNT, "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1/account", "AZURE_SKIP_SIGNATURE": "true"}


@pytest.mark.parametrize(
    ("url", "environment", "text"),
    [
        ("az://c", {}, "no account was named (AZURE_STORAGE_ACCOUNT_NAME)"),
        ("az://c", {**ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": f"{SECRET}!"}, "AZURE_STORAGE_ACCOUNT_KEY is no key"),
        ("az://c", {**ACCOUNT, "AZURE_STORAGE_SAS_TOKEN": SECRET}, "AZURE_STORAGE_SAS_TOKEN is no shared access"),
        ("az://c", {**ENDPOINT, "AZURE_STORAGE_ENDPOINT": "here"}, "AZURE_STORAGE_ENDPOINT in the environment is no"),
        ("s3://b", {"AWS_ENDPOINT_URL": ""}, "AWS_ENDPOINT_URL in the environment is no http:// or https:// address"),
        ("s3://b", {"AWS_ENDPOINT_URL": "http://[::1"}, "AWS_ENDPOINT_URL in the environment is no http:// or"),
        ("az://c", ENDPOINT, "the endpoint is http://, which AZURE_ALLOW_HTTP=true allows"),
        ("az://c", {"AZURE_STORAGE_USE_EMULATOR": "perhaps"}, "neither true nor false"),
        ("gs://b", {"GOOGLE_SERVICE_ACCOUNT": "/none.json"}, "the file that GOOGLE_SERVICE_ACCOUNT names cannot be"),
        ("gs://b", {"GOOGLE_APPLICATION_CREDENTIALS": "/none"}, "GOOGLE_APPLICATION_CREDENTIALS names cannot be read"),
        ("gs://b", {"GOOGLE_SERVICE_ACCOUNT_KEY": SECRET}, "the service account's JSON cannot be read, or lacks"),
        ("gs://b", {"GOOGLE_SERVICE_ACCOUNT": "{bad}"}, "the private key in the service account's JSON cannot be"),
        ("gs://b", {"GOOGLE_SERVICE_ACCOUNT": "/a", "GOOGLE_SERVICE_ACCOUNT_KEY": "{}"}, "not both"),
        ("gs://b", {"GOOGLE_BASE_URL": "here"}, "GOOGLE_BASE_URL in the environment is no http:// or https://"),
        (
            "gs://b",
            {"GOOGLE_BASE_URL": "http://127.0.0.1:1", "GOOGLE_SKIP_SIGNATURE": "true"},
            "the endpoint is http://, which GOOGLE_ALLOW_HTTP=true allows",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_named_at_once(
    url: str, environment: dict[str, str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, with the variable to correct and none of what is in it; the library alone is asked, nothing beyond."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    bad = tmp_path / "bad.json"
    bad.write_text(f'{{"client_email": "", "private_key_id": "", "private_key": "{SECRET}"}}')
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("{bad}", str(bad)))
    with pytest.raises(ObjectTrouble) as caught:
        open_objects(url).read_all("x")
    assert caught.value.kind == "unusable" and text in str(caught.value)
    assert str(caught.value).startswith(f"{url}") and "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


ASKING = "Generic store error: Error performing token request: Error performing GET {} in 9ms - {}"
REFUSED = "Server returned non-2xx status code: 401 Unauthorized: <Error>{}</Error>"
LOST = "HTTP error: error sending request Debug source: Http(HttpError {{ kind: Connect, source: {} }})"


@pytest.mark.parametrize(
    ("url", "host", "how", "kind", "text"),
    [
        ("az://c", "http://169.254.169.254/metadata", REFUSED, "denied", "no credentials were found (AZURE_STORAGE_"),
        ("gs://b", "http://metadata.google.internal/x", LOST, "denied", "no credentials were found (GOOGLE_SERVICE_"),
        ("s3://b", "http://169.254.169.254/latest", LOST, "denied", "no credentials were found (AWS_ACCESS_KEY_ID and"),
        ("az://c", "https://login.example/t/oauth2", LOST, "passing", "no connection to login.example, which makes a"),
        ("gs://b", "https://h:81/token?" + SECRET, REFUSED, "denied", "access was denied (401) by h:81, which makes a"),
    ],
)  # fmt: skip
def test_no_credentials_are_told_from_those_that_are_refused(
    url: str, host: str, how: str, kind: str, text: str
) -> None:
    found = told(GenericError(ASKING.format(host, how.format(SECRET))), url)
    assert found.kind == kind and found.text.startswith(text)
    assert SECRET not in found.text + found.todo and "\n" not in found.text


def test_a_web_server_has_no_credentials() -> None:
    text = "Error performing GET http://169.254.169.254/x in 1ms - kind: Connect"
    assert told(GenericError(text), "http://169.254.169.254/x").text == "no connection to 169.254.169.254"


def test_a_missing_bucket_is_not_a_missing_object() -> None:
    answer = "Server returned non-2xx status code: 404 Not Found: <Error><Code>{}</Code></Error>"
    for url, code, kind, text in (
        ("az://c", "ContainerNotFound", "no-bucket", "there is no such container (404 ContainerNotFound)"),
        ("gs://b", "NoSuchBucket", "no-bucket", "there is no such bucket (404 NoSuchBucket)"),
        ("az://c", "BlobNotFound", "missing", "is not there (404 BlobNotFound)"),
        ("gs://b", "NoSuchKey", "missing", "is not there (404 NoSuchKey)"),
    ):
        found = told(GenericError(answer.format(code)), url)
        assert (found.kind, found.text) == (kind, text)


def test_a_host_that_cannot_be_read_is_left_out() -> None:
    for asked in ("REDACTED", "http://[::1/x", "http:///x"):
        found = told(GenericError(f"Error performing GET {asked} in 1ms - kind: Connect"), "az://c")
        assert (found.text, found.kind, found.away) == ("no connection", "passing", True)
