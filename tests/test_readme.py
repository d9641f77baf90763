"""What the documents show works when it is pasted."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from longshore.cli.verbs import VERBS

ROOT = Path(__file__).parent.parent


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


@pytest.mark.real
def test_the_python_of_the_readme_works_when_pasted(state: Path) -> None:
    (program,) = blocks("README.md", "python")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"LONGSHORE_ROOT": str(state)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "0 42" in done.stdout
    assert "(b'hello', b'done\\n')" in done.stdout


def test_the_readme_names_every_verb() -> None:
    table = (ROOT / "README.md").read_text().partition("## The command line")[2].partition("## ")[0]
    named = set(re.findall(r"`([a-z]+)`", table))
    assert set(VERBS) - {"completion", "help"} <= named


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/*.md")))]
)
def test_links_lead_to_files_that_are_there(document: str) -> None:
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}"


def test_documents_name_modules_that_are_there() -> None:
    text = "".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("architecture", "where", "internals"))
    named = set(re.findall(r"`((?:oci|hcs|cli|simulator)?/?[a-z_]+\.py)`", text))
    package = ROOT / "src" / "longshore"
    missing = [name for name in named if not (package / name).exists() and not list(package.rglob(name))]
    assert missing == []


def test_architecture_names_methods_that_are_there() -> None:
    """The path of an exit code, above all: hop by hop it can be followed."""
    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`([A-Z]\w+)\.(\w+)`", text))
    assert {("Notifications", "_on_notification"), ("HcsProcess", "_end"), ("HcsSystem", "settle")} <= named
    defined = {
        (node.name, part.name)
        for path in (ROOT / "src" / "longshore").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert named - defined == set()
