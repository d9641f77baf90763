"""The directions of the design: front ends -> engine -> protocols <- platforms; read from the sources themselves.

docs/architecture.md draws the picture. An import for type checkers alone counts as one, unless said otherwise.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import longshore
from longshore import simulator, sync

from .needs import needs

SOURCE = Path(longshore.__file__).parent
PLATFORMS = ("oci", "hcs", "simulator")

LAYERS = {
    "errors": {"exit_record"},
    "exit_record": set(),
    "typed_json": set(),
    "aio": {"errors"},
    "fs": {"aio", "errors"},
    "machine": {"fs"},
    "spec": {"errors", "typed_json"},
    "compute": {"spec", "errors", "exit_record"},
    "logs": {"compute", "fs"},
    "store": {"compute", "spec", "errors", "exit_record", "typed_json", "machine", "fs", "aio"},
    "images": {"store", "logs", "compute", "spec", "errors", "exit_record", "typed_json", "machine", "fs", "aio"},
    "simulator": {"compute", "spec", "errors", "exit_record", "fs", "aio"},
    "oci": {"compute", "spec", "errors", "exit_record", "typed_json", "machine", "logs", "fs", "aio"},
    "hcs": {"compute", "spec", "errors", "exit_record", "typed_json", "machine", "logs", "fs", "aio"},
    "host": {"oci", "hcs", "compute", "errors"},
    "engine": {
        "host",
        "images",
        "store",
        "logs",
        "compute",
        "spec",
        "errors",
        "exit_record",
        "typed_json",
        "machine",
        "fs",
        "aio",
    },
    "sync": {"engine", "images", "store", "logs", "compute", "spec", "errors", "exit_record", "fs", "aio"},
    "cli": {
        "engine",
        "images",
        "typed_json",
        "store",
        "logs",
        "compute",
        "spec",
        "errors",
        "exit_record",
        "machine",
        "fs",
        "aio",
        "",
    },
    "lease": {"engine"},
    "__main__": {"cli"},
    "": {"sync", "engine", "images", "logs", "compute", "spec", "errors", "exit_record", "machine"},
}
"""What each folder may import of the package, and each module that is in none; the package itself is the empty name."""


@dataclass(frozen=True)
class Import:
    """One import of a module of the package: who, whom, where, and whether only for type checkers."""

    module: str
    of: str
    line: int
    typing_only: bool

    @property
    def part(self) -> str:
        """The folder or top-level module that is imported."""
        return self.of.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module.replace('.', '/')}.py:{self.line} imports {self.of}"


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    return module.partition(".")[0]


TREES = {module_name(path): (path, ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCE.rglob("*.py")}
MODULES = sorted(TREES)


def is_module(name: str) -> bool:
    return name in TREES


def imports_of(module: str) -> Iterator[Import]:
    path, tree = TREES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    package = [each for each in package if each]
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        only = node in typing_only
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "longshore":
                    yield Import(module, alias.name.partition(".")[2], node.lineno, only)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                if (node.module or "").partition(".")[0] != "longshore":
                    continue
                base = (node.module or "").split(".")[1:]
            else:
                base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
            base = [each for each in base if each]
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                yield Import(module, whole if is_module(whole) else ".".join(base), node.lineno, only)


@cache
def all_imports() -> list[Import]:
    """Of every module, its imports."""
    return [each for module in MODULES for each in imports_of(module)]


def folder_of(module: str) -> str:
    """The folder that a module is in; of a module at the top, its own name."""
    path, _ = TREES[module]
    folder = path.parent.relative_to(SOURCE).as_posix()
    return module if folder == "." else folder


def test_the_sources_are_read_as_they_are() -> None:
    """The other tests here would hold of nothing at all."""
    assert {"engine.engine", "compute.protocols", "host", "oci.service", "simulator.service", ""} <= set(MODULES)
    assert any((each.module, each.of) == ("host", "oci.service") for each in all_imports())
    assert any((each.module, each.of) == ("oci.service", "compute.protocols") for each in all_imports())
    assert any((each.module, each.of) == ("engine.engine", "host") for each in all_imports())
    assert any((each.module, each.of, each.typing_only) == ("errors", "exit_record", True) for each in all_imports())


@pytest.mark.parametrize("folder", sorted({part_of(module) for module in MODULES}))
def test_a_folder_imports_only_what_is_below_it(folder: str) -> None:
    """Also for type checkers, and inside functions."""
    imports = [each for each in all_imports() if part_of(each.module) == folder]
    assert [str(each) for each in imports if each.part not in {folder, *LAYERS[folder]}] == []


def test_folders_import_each_other_in_one_direction_only() -> None:
    arrows: dict[str, set[str]] = {}
    for each in all_imports():
        one, other = folder_of(each.module), folder_of(each.of)
        if one != other:
            arrows.setdefault(one, set()).add(other)
    assert list(circles(arrows)) == []


def circles(arrows: dict[str, set[str]]) -> Iterator[list[str]]:
    """Each way from a folder back to it."""
    done: set[str] = set()

    def walk(folder: str, way: list[str]) -> Iterator[list[str]]:
        if folder in way:
            yield [*way[way.index(folder) :], folder]
        elif folder not in done:
            for other in sorted(arrows.get(folder, ())):
                yield from walk(other, [*way, folder])
            done.add(folder)

    for folder in sorted(arrows):
        yield from walk(folder, [])


def test_a_circle_of_folders_is_found() -> None:
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == [["b", "c", "b"]]


def test_only_host_imports_a_platform_of_an_operating_system() -> None:
    importers = {part_of(each.module) for each in all_imports() if each.part in ("oci", "hcs")}
    assert importers == {"oci", "hcs", "host"}


CHOOSES_BY_PLATFORM = {"host", "machine", "cli.terminal.terminal"}
"""`host` chooses the service, `machine` the facts of this machine, the last the terminal of this program."""


def test_only_host_looks_at_the_platform() -> None:
    """But to refuse: what is for one platform says so, and type checkers for another read no further."""
    wrong = []
    for module, (_, tree) in TREES.items():
        refusals = {
            child
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and not node.orelse and [type(each) for each in node.body] == [ast.Raise]
            for child in ast.walk(node.test)
        }
        for node in ast.walk(tree):
            if node in refusals:
                continue
            asks = (isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.platform") or (
                isinstance(node, ast.ImportFrom) and node.module == "sys" and "platform" in [a.name for a in node.names]
            )
            imports = isinstance(node, ast.Import) and any(alias.name == "platform" for alias in node.names)
            if (asks or imports) and module not in CHOOSES_BY_PLATFORM:
                wrong.append(f"{module}:{node.lineno}")  # type: ignore[attr-defined]
    assert wrong == []


def in_a_fresh_interpreter(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", source, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


ONLY_WHERE_IT_WORKS = {"fs.inotify", "fs.directory_changes", "fs.unix" if os.name == "nt" else "fs.windows"} | (
    {f"images.{name}" for name in ("layer_writer", "lower_layers", "unpack", "verify")} if os.name == "nt" else set()
)
"""Modules whose import says by an ImportError that this system has not what they are for."""


IMPORT_EACH = """
import importlib, os, sys, traceback
modules, others = (argument.split() for argument in sys.argv[1:])
for name in others:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # another system's
for module in modules:
    if os.fork() == 0:
        try:
            importlib.import_module("longshore." + module)
        except BaseException:
            print(module, traceback.format_exc())
        sys.stdout.flush()
        os._exit(0)
    os.wait()
print("done")
"""


@needs("fork")
def test_every_module_can_be_imported_first() -> None:
    """No import works only because another of the package came before it; `hcs` on Linux, `oci` where there is no
    runtime. Each is imported in a fork of a Python that has loaded what is not ours."""
    modules = [each for each in MODULES if not each.startswith("cli") and each and each not in ONLY_WHERE_IT_WORKS]
    done = in_a_fresh_interpreter(IMPORT_EACH, " ".join(modules), " ".join(imported_from_elsewhere()))
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def imported_from_elsewhere() -> list[str]:
    """The modules of others that the package imports."""
    found = set()
    for _, tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module)
    return sorted(name for name in found if part_of(name) != "longshore")


def test_the_engine_and_the_simulator_need_nothing_that_only_unix_has() -> None:
    """As on Windows: what its Python lacks is hidden; asyncio itself is loaded before, and so is the one module that
    Unix has in the place of `fs.windows`."""
    done = in_a_fresh_interpreter(
        "import asyncio, asyncio.unix_events, subprocess, tempfile, shutil, sys, longshore.fs.unix\n"
        "for name in ('fcntl', 'termios', 'pwd', 'grp', 'resource', 'pty', 'tty', 'syslog'):\n"
        "    sys.modules[name] = None\n"
        "import longshore.sync, longshore.simulator, longshore.hcs\n"
        "for name in longshore.__all__:\n"
        "    getattr(longshore, name)\n"
    )
    assert (done.stderr, done.returncode) == ("", 0)


def test_the_import_of_the_package_loads_nothing_of_it() -> None:
    done = in_a_fresh_interpreter(
        "import sys, longshore\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('asyncio', 'ctypes', 'click', 'msgspec')"
        " or name.startswith('longshore.')])"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


SHARED_JOBS = {"documents", "translate", "stdio", "service", "layers", "foreign_document", "probe"}
"""Jobs that each platform has."""


def test_platforms_do_the_same_job_in_a_file_of_the_same_name() -> None:
    for platform in ("oci", "hcs"):
        names = {module.rpartition(".")[2] for module in MODULES if part_of(module) == platform}
        assert SHARED_JOBS - names == set(), platform


PUBLIC_CLASSES = {*longshore.__all__, *sync.__all__, *simulator.__all__}
"""Classes that users hold: each of their public methods explains itself. Of others, the class does."""

PROTOCOLS_OF_USERS = {node.name for node in TREES["compute.protocols"][1].body if isinstance(node, ast.ClassDef)}
SELF_EVIDENT = {"pid", "token", "id", "streams", "name"}

PARTS_OF_A_VERB = {"run", "show", "before"}
"""What each file of the command line has: its module's docstring says what the verb does."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(body: list[ast.stmt]) -> list[Definition]:
    return [node for node in body if isinstance(node, Definition) and not node.name.startswith("_")]


def without_docstring(module: str) -> Iterator[str]:
    """Names of what is public and says nothing of itself."""
    path, tree = TREES[module]
    if tree.body and not ast.get_docstring(tree):
        yield f"{path.name} itself"
    verb = part_of(module) == "cli"
    implements = {
        method.name
        for node in public(TREES["compute.protocols"][1].body)
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    for node in public(tree.body):
        if not ast.get_docstring(node) and not (verb and node.name in PARTS_OF_A_VERB):
            yield node.name
        if isinstance(node, ast.ClassDef) and node.name in PUBLIC_CLASSES | PROTOCOLS_OF_USERS:
            promised = (
                SELF_EVIDENT if module == "compute.protocols" else implements if part_of(module) in PLATFORMS else set()
            )
            for method in public(node.body):
                if not ast.get_docstring(method) and method.name not in promised:
                    yield f"{node.name}.{method.name}"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_thing_has_a_docstring(module: str) -> None:
    assert list(without_docstring(module)) == []
