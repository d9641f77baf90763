"""Make `src/longshore/sync/__init__.py`, the blocking API, from the asyncio classes: one source for every signature.

    python scripts/make_sync.py            write it
    python scripts/make_sync.py --check    say whether it is up to date, by the exit code

What a blocking class needs and its asyncio class does not have is in `sync/streams.py`, by hand.
"""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "longshore"
TARGET = PACKAGE / "sync" / "__init__.py"

FOLDERS = ("engine", "images", "store", "logs", "compute", "spec")
"""Where the names of the asyncio API are defined, the engine's first."""

CLASSES = ("Process", "Attachment", "Container", "Images", "Engine")
"""The asyncio classes that get a proxy, in the order in which they are written down."""

READ_AHEAD = {"events", "logs"}
"""Iterators over what is past already, for the most part; others measure when they are asked."""

WHAT = {
    "Process": "self._inner._what()",
    "Container": 'f"container `{self.id}`"',
    "Attachment": 'f"container `{self._inner._container.id}`"',
}
"""What did not end in time, in the words of the error."""

ATTRIBUTES = {
    "container_id": "The id of its container.",
    "name": "Its name in the container; `init` for the first process.",
    "args": "Its command.",
    "exit": "How it ended; None while it runs.",
    "init": "The first process, where this engine started it; else None.",
    "stdin": "Its standard input; None if there is none here.",
    "stdout": "Its standard output.",
    "stderr": "Its standard error.",
    "id": "Its id.",
}
"""Docstrings of what is a plain attribute of the asyncio class."""

TYPES = {
    r"AsyncGenerator\[(.*), None\]": r"ClosingIterator[\1]",
    r"asyncio\.StreamReader": "Reader",
    r"asyncio\.StreamWriter": "Writer",
}
"""Types of the asyncio classes, as patterns, and of their proxies."""

HEADER = '''"""The blocking form of the asyncio API: the same names, parameters and errors, without `await`.

    with longshore.sync.Engine() as engine:
        done = engine.run("host", ["echo", "hi"])
        box = engine.launch("web-1", root="rootfs:/srv/web", args=["httpd"])
        for record in box.logs(follow=True): ...

An engine has a thread with an event loop of its own; so it works from any thread, also where a loop runs already
(notebooks). Any number of threads may use one engine at once. Ctrl-C in a call cancels it: it undoes what it did,
as its docstring says of "cancelled", and then KeyboardInterrupt is raised. Streams are binary files. An engine
left open is closed at the end of the program; in a forked child it raises EngineClosed.

Made by scripts/make_sync.py: do not edit. What is made by hand is in streams.py.
"""
'''


class Sources:
    """The modules of the package, as syntax trees."""

    def __init__(self) -> None:
        self.trees: dict[str, ast.Module] = {}
        paths = [path for folder in FOLDERS for path in sorted((PACKAGE / folder).glob("*.py"))]
        for path in [*paths, PACKAGE / "errors.py"]:
            parts = path.relative_to(PACKAGE).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.trees[module] = ast.parse(path.read_text(encoding="utf-8"))

    def find_class(self, name: str) -> tuple[str, ast.ClassDef]:
        """The module and the definition of a class."""
        for module, tree in self.trees.items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return module, node
        raise LookupError(f"no module of the package defines the class {name}")

    def members(self, definition: ast.ClassDef) -> Iterator[ast.stmt]:
        """What a class has, with what its bases in the package have."""
        seen: set[str] = set()
        for node in definition.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                seen.add(node.name)
            yield node
        for base in definition.bases:
            if isinstance(base, ast.Name):
                try:
                    _, found = self.find_class(base.id)
                except LookupError:
                    continue
                for node in self.members(found):
                    if not (isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name in seen):
                        yield node

    def where(self, name: str) -> str | None:
        """The import that makes a name known here, as the package itself writes it."""
        for module, tree in self.trees.items():  # first where it is public, if only passed on
            for node in tree.body:
                if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != "__all__":
                    continue
                if module != "engine.engine" and name in ast.literal_eval(node.value):
                    return f"from ..{module} import {name}"
        for module, tree in self.trees.items():
            for node in tree.body:
                targets: list[str] = []
                if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    targets = [node.name]
                elif isinstance(node, ast.Assign):
                    targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    targets = [node.target.id]
                if name in targets:
                    return f"from ..{module} import {name}"
        for tree in self.trees.values():
            for found in ast.walk(tree):
                if isinstance(found, ast.ImportFrom) and found.level == 0 and any(a.name == name for a in found.names):
                    return f"from {found.module} import {name}"
                if isinstance(found, ast.Import) and any(a.name == name for a in found.names):
                    return f"import {name}"
        return None


def annotation(node: ast.expr | None) -> str:
    """An annotation as the proxy has it."""
    if node is None:
        return "None"
    text = ast.unparse(node)
    for old, new in TYPES.items():
        text = re.sub(old, new, text)
    return text


def names(text: str) -> set[str]:
    """The names that an expression needs to be known."""
    return {
        node.id
        for node in ast.walk(ast.parse(text, mode="eval"))
        if isinstance(node, ast.Name) and not hasattr(builtins, node.id)
    }


def docstring(text: str | None, of: str) -> str:
    """A docstring as source."""
    if text is None:
        raise LookupError(f"{of} has no docstring")
    quoted = text.replace("`async with`", "`with`").replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""{quoted}\n"""' if "\n" in quoted else f'"""{quoted}"""'


def private(name: str) -> bool:
    """Whether a name is nobody's business."""
    return name.startswith("_")


class Maker:
    """Writes the proxies and keeps what they need to import."""

    def __init__(self) -> None:
        self.sources = Sources()
        self.typing: set[str] = {"LoopThread"}
        self.running: set[str] = {"BlockingEngine", "BlockingProxy"}
        self.modules: dict[str, str] = {}

    # signatures

    def parameters(self, arguments: ast.arguments, extra: str = "") -> str:
        """Parameters as they stand, without private ones; `extra` before those that nobody names."""
        assert not arguments.posonlyargs
        assert arguments.vararg is None
        parts = []
        plain = arguments.args
        defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
        for argument, default in zip(plain, defaults, strict=True):
            if not private(argument.arg):
                parts.append(self.parameter(argument, default))
        keyword = [
            self.parameter(argument, default)
            for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if not private(argument.arg)
        ]
        if extra:
            keyword.append(extra)
        if keyword:
            parts += ["*", *keyword]
        if arguments.kwarg is not None:
            text = annotation(arguments.kwarg.annotation)
            self.typing |= names(text) - {"Unpack"}
            self.running |= names(text) & {"Unpack"}
            parts.append(f"**{arguments.kwarg.arg}: {text}")
        return ", ".join(parts)

    def parameter(self, argument: ast.arg, default: ast.expr | None) -> str:
        text = argument.arg
        if argument.annotation is not None:
            kind = annotation(argument.annotation)
            self.typing |= names(kind)
            text += f": {kind}"
        if default is not None:
            value = ast.unparse(default)
            self.running |= names(value)
            text += f" = {value}" if argument.annotation is not None else f"={value}"
        return text

    @staticmethod
    def passed(arguments: ast.arguments) -> str:
        """The same parameters, handed on."""
        parts = [argument.arg for argument in arguments.args[1:] if not private(argument.arg)]
        parts += [f"{each.arg}={each.arg}" for each in arguments.kwonlyargs if not private(each.arg)]
        if arguments.kwarg is not None:
            parts.append(f"**{arguments.kwarg.arg}")
        return ", ".join(parts)

    # members

    def wrapped(self, kind: str, value: str) -> str:
        """An expression of the asyncio side, as one of this side."""
        if kind in CLASSES:
            return f"{kind}._of(self._loop, {value})"
        if kind.removesuffix(" | None") in CLASSES:
            return f"None if {value} is None else {kind.removesuffix(' | None')}._of(self._loop, {value})"
        return value

    def method(self, owner: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
        returns = annotation(node.returns)
        self.typing |= names(returns)
        text = ast.get_docstring(node)
        extra = ""
        call = f"self._inner.{node.name}({self.passed(node.args)})"
        if returns.startswith("ClosingIterator"):
            ahead = ", ahead=AHEAD" if node.name in READ_AHEAD else ""
            self.running |= {"AHEAD"} if ahead else set()
            body = f"return self._iterate({call}{ahead})"
        elif not isinstance(node, ast.AsyncFunctionDef):
            body = f"return {self.wrapped(returns, call)}"
        elif (owner, node.name) == ("Engine", "close"):
            body = "self._close(grace)"
        elif (owner, node.name) == ("Process", "communicate"):
            body = f"return self._communicate({call})"
        elif node.name == "wait":
            extra = "timeout: float | None = None"
            text = f"{text}\n\nRaises TimeLimit after `timeout` seconds; what was waited for goes on."
            body = f"return self._call_limited({call}, timeout, {WHAT[owner]})"
        elif returns == "None":
            body = f"self._call({call})"
        else:
            body = f"return {self.wrapped(returns, f'self._call({call})')}"
        head = f"def {node.name}({self.parameters(node.args, extra)}) -> {returns}:"
        doc = docstring(text, f"{owner}.{node.name}")
        return f"{head}\n{textwrap.indent(doc, '    ')}\n    {body}\n"

    def attribute(self, owner: str, name: str, kind: str, text: str | None, closes_stdin: bool) -> str:
        self.typing |= names(kind)
        value = f"self._inner.{name}"
        if kind.removesuffix(" | None") == "Reader":
            body = f'self.{"_reader" if kind.endswith("None") else "_open_reader"}("{name}", {value})'
        elif kind.removesuffix(" | None") == "Writer":
            body = f"self._writer({value}{', self._inner.close_stdin' if closes_stdin else ''})"
        else:
            body = self.wrapped(kind, value)
        doc = docstring(text or ATTRIBUTES.get(name), f"{owner}.{name}")
        return f"@property\ndef {name}(self) -> {kind}:\n{textwrap.indent(doc, '    ')}\n    return {body}\n"

    def plain_attributes(self, init: ast.FunctionDef) -> Iterator[tuple[str, str]]:
        """Names and types of the public attributes that `__init__` sets."""
        kinds = {each.arg: annotation(each.annotation) for each in [*init.args.args, *init.args.kwonlyargs]}
        for node in ast.walk(init):
            target: ast.expr | None = node.target if isinstance(node, ast.AnnAssign) else None
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                target = node.targets[0]
            if not (isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)):
                continue
            if target.value.id != "self" or private(target.attr):
                continue
            if isinstance(node, ast.AnnAssign):
                yield target.attr, annotation(node.annotation)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
                yield target.attr, kinds[node.value.id]

    def proxy(self, name: str) -> str:
        module, definition = self.sources.find_class(name)
        members = list(self.sources.members(definition))
        functions = [node for node in members if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        closes_stdin = any(node.name == "close_stdin" for node in functions)
        alias = module.rpartition(".")[2]
        base = "BlockingEngine" if name == "Engine" else f"BlockingProxy[_{alias}.{name}]"
        self.modules[f"_{alias}"] = module
        self.running.add(f"_{alias}")
        parts = []
        for node in functions:
            if node.name == "__init__":
                assert isinstance(node, ast.FunctionDef)
                if name == "Engine":
                    made = f"super().__init__(_{alias}.Engine({self.passed(node.args)}))"
                    parts.append(f"def __init__({self.parameters(node.args)}) -> None:\n    {made}\n")
                else:
                    parts += [
                        self.attribute(name, attribute, kind, None, closes_stdin)
                        for attribute, kind in self.plain_attributes(node)
                    ]
            elif node.name == "__aenter__" and name != "Engine":
                parts.append("def __enter__(self) -> Self:\n    return self\n")
                self.typing.add("Self")
            elif node.name == "__aexit__" and name != "Engine":
                parts.append("def __exit__(self, *exc: object) -> None:\n    self.close()\n")
            elif private(node.name):
                continue
            elif any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list):
                kind, text = annotation(node.returns), ast.get_docstring(node)
                parts.append(self.attribute(name, node.name, kind, text, closes_stdin))
            else:
                parts.append(self.method(name, node))
        doc = docstring(ast.get_docstring(definition), name)
        body = "\n".join([doc + "\n", *parts])
        return f"class {name}({base}):\n{textwrap.indent(body, '    ')}\n"

    def run(self) -> str:
        """`run` as a function: an engine of its own around the engine's."""
        _, definition = self.sources.find_class("Engine")
        functions = {
            node.name: node
            for node in self.sources.members(definition)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
        run, init = functions["run"], functions["__init__"]
        opened = [
            self.parameter(argument, default)
            for argument, default in [
                *zip(init.args.args[1:], init.args.defaults, strict=True),
                *zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True),
            ]
            if not private(argument.arg)
        ]
        arguments = ast.arguments(
            posonlyargs=[],
            args=run.args.args[1:],
            vararg=None,
            kwonlyargs=run.args.kwonlyargs,
            kw_defaults=run.args.kw_defaults,
            kwarg=run.args.kwarg,
            defaults=run.args.defaults,
        )
        text = (
            f"{ast.get_docstring(run)}\n\n"
            "This is `Engine.run` in an engine of its own, which `service`, `state` and `runtime` are for; to run\n"
            "many, open one Engine. It blocks, and works where an event loop runs already. Ctrl-C is the cancelling."
        )
        return (
            f"def run({self.parameters(arguments, ', '.join(opened))}) -> {annotation(run.returns)}:\n"
            f"{textwrap.indent(docstring(text, 'run'), '    ')}\n"
            f"    with Engine({self.passed(init.args)}) as engine:\n"
            f"        return engine.run({self.passed(run.args)})\n"
        )

    def make(self) -> str:
        """The module."""
        proxies = [self.proxy(name) for name in CLASSES] + [self.run()]
        known = {*CLASSES}
        by_hand = {"AHEAD", "ClosingIterator", "BlockingEngine", "LoopThread", "Reader", "BlockingProxy", "Writer"}
        running = {"ClosingIterator", "Reader", "Writer"} | (self.running - known)
        typing = self.typing - running - known - {"LoopThread"}
        lines = []
        for group in (running, typing):
            found = set()
            for each in sorted(group):
                if each in by_hand:
                    found.add(f"from .streams import {each}")
                elif private(each):
                    package, _, leaf = self.modules[each].rpartition(".")
                    found.add(f"from ..{package} import {leaf} as {each}")
                elif (line := self.sources.where(each)) is not None:
                    found.add(line)
                else:
                    raise LookupError(f"nothing tells where {each} comes from")
            lines.append("\n".join(sorted(found)))
        public = sorted([*CLASSES, "ClosingIterator", "Reader", "Writer", "run"])
        return "\n".join(
            [
                HEADER,
                "from __future__ import annotations\n",
                "from typing import TYPE_CHECKING",
                lines[0],
                "\nif TYPE_CHECKING:",
                textwrap.indent(lines[1], "    "),
                "\n",
                *proxies,
                f"__all__ = {public!r}",
            ]
        )


def tidy(source: str) -> str:
    """The source as the project's formatter has it."""
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check", "--select", "I", "--fix-only", "--quiet"], ["format", "--quiet"]):
        arguments = [str(ruff) if ruff.exists() else "ruff", *command, "--stdin-filename", str(TARGET), "-"]
        source = subprocess.run(arguments, input=source, capture_output=True, text=True, check=True).stdout
    return source


class _Apart(ast.NodeTransformer):
    """One import a statement, in order: however a formatter has put them."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            imports: list[ast.stmt] = []
            rest: list[ast.stmt] = []
            for each in body:
                if isinstance(each, ast.ImportFrom):
                    imports += [ast.ImportFrom(each.module, [alias], each.level) for alias in each.names]
                else:
                    (imports if isinstance(each, ast.Import) else rest).append(each)
            node.body = sorted(imports, key=ast.dump) + rest  # type: ignore[attr-defined]
        return node


def up_to_date() -> bool:
    """Whether what is there says what would be made; how it is formatted does not matter."""
    try:
        there = TARGET.read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    one, other = (ast.dump(_Apart().visit(ast.parse(source))) for source in (there, Maker().make()))
    return one == other


def main() -> int:
    """Write it, or check it."""
    if sys.argv[1:] == ["--check"]:
        if up_to_date():
            return 0
        print(
            "src/longshore/sync/__init__.py is not what the asyncio classes say: run python scripts/make_sync.py",
            file=sys.stderr,
        )
        return 1
    TARGET.write_text(tidy(Maker().make()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
