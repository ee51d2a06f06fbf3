"""The documentation: its links resolve, and its examples run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("examples/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
PARSERS = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}


def name(document: Path) -> str:
    return str(document.relative_to(REPOSITORY))


def anchors(document: Path) -> set[str]:
    """Return what links into a document may name, made from its headings as GitHub does."""
    headings = HEADING.findall(BLOCK.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_resolve(document: Path) -> None:
    """Every link to a file or a heading of this repository leads somewhere."""
    for link in LINK.findall(BLOCK.sub("", document.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = document.parent / file if file else document
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link} names no heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_settings_files_parse(document: Path) -> None:
    """Every JSON, TOML and YAML example is well-formed."""
    for language, text in BLOCK.findall(document.read_text()):
        if language in PARSERS:
            PARSERS[language](text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_python_runs(document: Path, tmp_path: Path) -> None:
    """The Python examples of a document run, one after the other, in a process of their own."""
    code = "\n".join(text for language, text in BLOCK.findall(document.read_text()) if language == "python")
    if not code:
        return
    script = tmp_path / "examples.py"
    script.write_text(code)
    environment = {"OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(tmp_path / "reports")}
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
