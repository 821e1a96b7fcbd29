"""The documents tell the truth: what they name exists, what they show can be typed."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.rooms import ROOMS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "speceyes"
DOCUMENTS = sorted(ROOT.glob("*.md"))
PROSE = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LAB.md", "CONTRIBUTING.md", "SECURITY.md"]

REGISTRIES = ("pypi.org", "pythonhosted.org", "download.pytorch.org", "anaconda.org")
FORBIDDEN = re.compile(
    "|".join([r"\bTO" + "DO", r"\bFIX" + "ME", r"(?<![\w.])/work/", *map(re.escape, REGISTRIES)])
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#)([^)#\s]+)")
PATH = re.compile(r"[\w.-]*[\w-]/(?:[\w.-]+/)*(?:[\w.-]+)?|[\w-]+\.(?:py|md|toml|cff|jinja|yaml)")
TARGET = re.compile(r"^([a-z0-9]+):.*## ", re.MULTILINE)
WRITTEN_BY_RUNS = ("runs/", "out/", "build/", ".venv/", "report.html")


def fenced(text: str, language: str) -> list[str]:
    """Give the bodies of a document's code blocks in one language."""
    return [body for tag, body in FENCE.findall(text) if tag == language]


def commands(text: str, program: str) -> Iterator[list[str]]:
    """Give the words of every command line of one program that a document shows."""
    spans = CODE_SPAN.findall(FENCE.sub("", text))
    lines = [line for body in fenced(text, "sh") for line in body.splitlines()]
    for line in [*spans, *lines]:
        words = line.split("#")[0].split()
        if words and words[0] == program:
            yield words[1:]


def tree_entries(text: str) -> list[str]:
    """Read an annotated tree (two spaces per level, a name, then its note) into paths."""
    body = next(b for b in fenced(text, "text") if b.startswith("speceyes/\n"))
    parents: list[str] = []
    entries = []
    for line in body.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        name = line.split()[0]
        parents = [*parents[:depth], name.rstrip("/")]
        entries.append("/".join(parents))
    return entries


def named_paths(text: str) -> set[str]:
    """Give everything between backticks, outside code blocks, that looks like a path."""
    spans = CODE_SPAN.findall(FENCE.sub("", text))
    return {span for span in spans if PATH.fullmatch(span)} - {"n/a"}


def exists(path: str) -> bool:
    """Say if a path is there, from the root or from the package; or is what a run writes."""
    return path.startswith(WRITTEN_BY_RUNS) or (ROOT / path).exists() or (PACKAGE / path).exists()


def texts() -> list[Path]:
    """Give every text file that the project writes by hand."""
    folders = ("src", "tests", "training", "benchmarks", "examples", ".ci")
    found = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file()]
    found += [p for p in ROOT.iterdir() if p.is_file()]
    kinds = {".py", ".md", ".toml", ".yaml", ".cff", ".jinja", ".html", ""}
    return [p for p in found if p.suffix in kinds and "__pycache__" not in p.parts]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def version() -> str:
    return str(tomllib.loads(read("pyproject.toml"))["project"]["version"])


@cache
def cli_help(command: str) -> str:
    """Ask the installed command line for the help of one command; '' for the whole program."""
    code = "import sys; from speceyes.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, *command.split(), "--help"]
    plain = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=plain)
    return done.stdout if done.returncode == 0 else ""


def test_the_documents_are_there():
    assert [name for name in PROSE if not (ROOT / name).is_file()] == []


def test_the_readme_shows_both_commands():
    shown = [words[0] for words in commands(read("README.md"), "make") if words]
    assert {"demo", "test"} <= set(shown)


def test_the_readme_tree_exists():
    assert [entry for entry in tree_entries(read("README.md")) if not (ROOT / entry).exists()] == []


def test_the_readme_tree_shows_every_module():
    shown = set(tree_entries(read("README.md")))
    modules = {p.relative_to(ROOT).as_posix() for p in PACKAGE.rglob("*.py")}
    assert sorted(m for m in modules - shown if not m.endswith("__init__.py")) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(document: Path):
    text = document.read_text(encoding="utf-8")
    names = named_paths(text) | set(LINK.findall(text))
    assert sorted(name for name in names if not exists(name)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(document: Path):
    targets = set(TARGET.findall(read("Makefile")))
    shown = commands(document.read_text(encoding="utf-8"), "make")
    assert sorted({words[0] for words in shown if words} - targets) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_shown_commands_exist(document: Path):
    for words in commands(document.read_text(encoding="utf-8"), "speceyes"):
        command = words[0] if words and not words[0].startswith("-") else ""
        described = cli_help(command)
        assert described, f"speceyes {command} has no --help"
        for word in words:
            if word.startswith("--"):
                flag = re.escape(word.partition("=")[0])
                assert re.search(rf"{flag}(?![\w-])", described), f"speceyes {command} {word}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_shown_python_uses_what_exists(document: Path):
    for body in fenced(document.read_text(encoding="utf-8"), "python"):
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
        tree = compile(body, document.name, "exec", flags)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("speceyes"):
                module = importlib.import_module(str(node.module))
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def test_the_readme_has_room_for_results():
    text = read("README.md")
    assert text.count("<!-- results -->") == text.count("<!-- /results -->") == 1
    assert text.index("<!-- results -->") < text.index("<!-- /results -->")


def test_the_map_has_every_room():
    rows = re.findall(r"^\| ([a-z]+) \| `", read("ARCHITECTURE.md"), re.MULTILINE)
    assert rows == list(ROOMS)


def test_one_version_everywhere():
    speceyes = importlib.import_module("speceyes")
    assert getattr(speceyes, "__version__", version()) == version()
    assert f"\nversion: {version()}\n" in read("CITATION.cff")
    released = re.findall(r"^## \[?(\d[\w.]*)", read("CHANGELOG.md"), re.MULTILINE)
    assert released[0] == version()


def test_every_make_target_is_listed():
    makefile = read("Makefile")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == set(TARGET.findall(makefile))


def test_nothing_forbidden_is_written():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in texts()
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := FORBIDDEN.search(line))
    ]
    assert found == []


SAMPLE = """
See `gate.py`, `src/speceyes/lost.py`, `tests/`, `a/b` [lab](LAB.md), `make dmeo`; p / q.

```sh
make demo ARGS="--items 6"   # `speceyes nothing`
speceyes demo --items 6
```

```text
speceyes/
  src/speceyes/   the package
    gate.py       phase III
  Makefile        all
```
"""


def test_the_reading_itself():
    assert named_paths(SAMPLE) == {"gate.py", "src/speceyes/lost.py", "tests/", "a/b"}
    assert list(commands(SAMPLE, "make")) == [["dmeo"], ["demo", 'ARGS="--items', '6"']]
    assert list(commands(SAMPLE, "speceyes")) == [["demo", "--items", "6"]]
    assert tree_entries(SAMPLE) == ["src/speceyes", "src/speceyes/gate.py", "Makefile"]
    assert exists("gate.py")
    assert not exists("src/speceyes/lost.py")
    assert FORBIDDEN.search("see https://" + REGISTRIES[0])
    assert FORBIDDEN.search("# TO" + "DO: later")
