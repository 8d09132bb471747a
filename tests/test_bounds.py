"""The lower bounds that pyproject.toml claims are the versions that `make test-lowest` runs the tests with."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

TESTS = Path(__file__).parent
ELSEWHERE = {("dev", "mypy"), ("dev", "ruff"), ("ray", "ray"), ("onnx", "torch")}
"""Bounds of an extra that are not tested there: `make check` runs the tools, Ray needs a cluster, the exporter a newer torch."""


def test_each_lower_bound_is_what_is_tested() -> None:
    lines = (TESTS / "lowest.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    tested = {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    claimed = {
        (extra, canonicalize_name(requirement.name)): Version(bound.version)
        for extra, texts in {"": project["dependencies"], **project["optional-dependencies"]}.items()
        for requirement in map(Requirement, texts)
        for bound in requirement.specifier
        if bound.operator == ">="
    }
    held = {key: bound for key, bound in claimed.items() if key not in ELSEWHERE}
    assert held == {key: tested.get(key[1]) for key in held}
