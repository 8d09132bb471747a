"""README, CONTRIBUTING and docs/ against what is there: links and their anchors, files, commands and flags."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

import onepass

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OF_OTHERS = {"--array", "--cpus-per-task", "--gres", "--requeue", "--shm-size", "--sampling_rate"}
"""Flags of SLURM, Docker and VideoMAE that the pages name."""
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z_-]*[a-z]")
FILE = re.compile(r"(?<![\w/])(?:pipeline|cache|heads|tests|benchmarks|docs)/[\w/]+\.(?:py|md|txt|png)\b")
COMMAND = re.compile(
    r"(?:^ {4}|`)(onepass [a-z-]+|extract|train-head|python benchmarks/\w+\.py)(?= )([^`\n]*)", re.M
)


def text_of(page: Path) -> str:
    """Without blocks of Python, in which `#` is a comment."""
    return re.sub(r"^```python\n.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


@cache
def flags() -> dict[str, set[str]]:
    """Every flag of every command of `onepass`, `extract` and `train-head` among them."""
    group = get_command(onepass.app)
    return {
        name: {"--help", *(o for p in command.params for o in (*p.opts, *p.secondary_opts))}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


def benchmark_flags(script: str) -> set[str]:
    found = (ROOT / script).read_text(encoding="utf-8")
    if script.endswith("gpu_day.py"):
        found += "".join(
            step.read_text(encoding="utf-8") for step in (ROOT / "benchmarks" / "gpu_steps").glob("*.py")
        )
    return set(re.findall(r'"(--[a-z-]+)"', found))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        if link.startswith("https://"):
            continue
        name, _, place = link.partition("#")
        target = page.parent / name if name else page
        headings = re.findall(r"^#+ (.*)$", text_of(target), re.M) if target.suffix == ".md" else []
        if not target.is_file() or (place and place not in map(anchor, headings)):
            wrong.append(link)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    named = set(FILE.findall(text_of(page))) - {"pipeline/backbones/kinds/NAME.py"}
    assert not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_are_those_of_some_command(page: Path) -> None:
    text = text_of(page)
    known = set().union(*flags().values(), OF_OTHERS)
    for script in re.findall(r"\b(benchmarks/\w+\.py)", text):
        known |= benchmark_flags(script)
    assert not set(FLAG.findall(text)) - known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_has_the_flags_it_is_shown_with(page: Path) -> None:
    wrong = []
    for command, rest in COMMAND.findall(text_of(page)):
        name = command.removeprefix("onepass ")
        script = command.removeprefix("python ") if command.startswith("python ") else ""
        own = benchmark_flags(script) if script else flags()[name]
        shown = re.split(r"\s#\s|\s\[?--\s", rest)[0]  # what stands behind -- is for another command
        wrong += [f"{command} {flag}" for flag in FLAG.findall(shown) if flag not in own]
    assert not wrong


def test_readme_has_a_row_for_every_command() -> None:
    rows = text_of(ROOT / "README.md").partition("\n## Commands\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(?:onepass )?([a-z-]+)", rows))
    assert not flags().keys() - named
