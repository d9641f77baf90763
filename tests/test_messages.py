"""Every message that longshore can raise: read from the sources, checked for its form, and compared with a list.

`messages.txt` is that list, for a reader and for review. After a change of a message write it anew and look at the
difference: `python -m tests.test_messages`.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import longshore
from longshore import errors
from longshore.cli.arguments.parser import UsageError

SOURCE = Path(longshore.__file__).parent
LIST = Path(__file__).with_name("messages.txt")

FAMILY: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.LongshoreError)
}
FAMILY["UsageError"] = UsageError
MADE_OF_RESULTS = {"CommandFailed", "DescriptorLimit"}  # their texts are in errors.py alone

FORBIDDEN = re.compile(
    r"\b(who|whom|whose|whoever|nobody|somebody|strangers?|tells?|told|mend(ed)?|let go|be at it|away)\b"
)

IMPERATIVES = set(
    "add ask attach begin change check choose close convert copy correct create decrypt delete drop enable end "
    "export fetch find free give increase inspect install leave list log look make name open pass pull push "
    "put raise read remove rename repair restart resume run save search see send set start stop try unpack "
    "update use wait write".split()
)

SENTENCES = (  # of LongshoreError and StoreError, whose message is the caller's: all others begin with "cannot"
    "the engine is closed",
    "this engine belongs to another process",
    "this program is ending",
    "the handle was closed during the call",
    "{",
)


class Text(str):
    """A template: what stands in braces is known only when the error is raised. A format has no effect on it."""

    def __format__(self, spec: str) -> str:
        return str(self)


class Message(NamedTuple):
    kind: str
    text: str
    hint: str | None
    operation: str | None

    def line(self) -> str:
        return f"{self.kind}: {self.text}" + (f"  [hint: {self.hint}]" if self.hint is not None else "")


@cache
def constants() -> dict[str, str]:
    """Every text that a module has under a name in capitals, by that name."""
    found = {}
    for tree in trees():
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = node.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found[node.targets[0].id] = value.value
    return found


@cache
def trees() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py")) if path.name != "errors.py"]


def variants(node: ast.expr, local: dict[str, list[ast.expr]], deep: int = 0) -> list[str | None]:
    """The texts that an expression can be; what is not written there stands in braces."""
    if isinstance(node, ast.Constant):
        return [node.value if node.value is None or isinstance(node.value, str) else str(node.value)]
    if isinstance(node, ast.JoinedStr):
        parts = [
            variants(part, local, deep) if isinstance(part, ast.Constant) else formatted(part, local, deep)
            for part in node.values
        ]
        return ["".join(map(str, each)) for each in itertools.islice(itertools.product(*parts), 12)]
    if isinstance(node, ast.IfExp):
        return [*variants(node.body, local, deep), *variants(node.orelse, local, deep)]
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        return [text for each in node.values for text in variants(each, local, deep)]
    if isinstance(node, ast.Name) and node.id in constants():
        return [constants()[node.id]]
    if isinstance(node, ast.Name) and node.id in local and deep < 2:
        return [text for each in local[node.id] for text in variants(each, local, deep + 1)]
    return [Text("{" + " ".join(ast.unparse(node).split()) + "}")]


def formatted(part: ast.expr, local: dict[str, list[ast.expr]], deep: int) -> list[str | None]:
    assert isinstance(part, ast.FormattedValue)
    value = part.value
    if isinstance(value, ast.Name) and (value.id in constants() or value.id in local):
        found = variants(value, local, deep)
        if all(text is not None and not text.startswith("{") for text in found):
            return found
    return [Text("{" + " ".join(ast.unparse(value).split()) + "}")]


def assigned(function: ast.AST) -> dict[str, list[ast.expr]]:
    """What a function gives to its names that is a text."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        target: ast.expr | None = None
        value: ast.expr | None = None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
            target, value = node.target, node.value
        if isinstance(target, ast.Name) and isinstance(value, (ast.Constant, ast.JoinedStr, ast.IfExp)):
            found.setdefault(target.id, []).append(value)
    return found


def calls() -> Iterator[tuple[str, ast.Call, dict[str, list[ast.expr]]]]:
    """Every place where an error of the family, or HcsError, is made."""
    for tree in trees():
        inner: dict[ast.AST, ast.AST] = {}
        for function in ast.walk(tree):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner.update((node, function) for node in ast.walk(function))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                name = node.func.id
                if name in FAMILY or name == "HcsError":
                    yield name, node, assigned(inner[node]) if node in inner else {}


def made(name: str, call: ast.Call, local: dict[str, list[ast.expr]]) -> Iterator[Message]:
    """The messages of one call: the class itself puts them together."""
    keywords = {each.arg: each.value for each in call.keywords if each.arg is not None}
    hints = variants(keywords["hint"], local) if "hint" in keywords else [None]
    if name == "HcsError":  # its words and hints are those of the table of codes
        container = variants(call.args[1], local)[0]
        of = "" if container is None else f" container `{container}`"
        for operation in variants(call.args[0], local):
            yield Message(name, f"cannot {operation}{of}: {{the code in words}}", hints[0], operation)
        return
    arguments = [variants(each, local) for each in call.args]
    names = [each for each in ("reason", "place", "problem") if each in keywords]
    more = [variants(keywords[each], local) for each in names]
    for values in itertools.islice(itertools.product(*arguments, *more, hints), 24):
        given: list[Any] = [None if each is None else Text(each) for each in values[: len(arguments)]]
        extra: dict[str, Any] = dict(zip(names, values[len(arguments) : -1], strict=True))
        if any(isinstance(each, ast.Starred) for each in call.args):
            return
        for key in ("ended",):
            if key in keywords:
                extra[key] = True
        hint = {"hint": values[-1]} if "hint" in keywords else {}
        error = FAMILY[name](*given, **extra, **hint)
        yield Message(name, str(error), getattr(error, "hint", None), getattr(error, "operation", None))


@cache
def messages() -> list[Message]:
    found = {
        message for name, call, local in calls() if name not in MADE_OF_RESULTS for message in made(name, call, local)
    }
    return sorted(found, key=lambda each: each.line())


def listed() -> str:
    return "".join(f"{line}\n" for line in sorted({message.line() for message in messages()}))


def words(text: str) -> str:
    """A template without what is filled in."""
    return re.sub(r"\{[^{}]*\}", "{}", text)


def test_messages_are_those_of_the_list() -> None:
    assert listed() == LIST.read_text(), "write messages.txt anew (python -m tests.test_messages), and review it"


def test_messages_of_all_places_are_found() -> None:
    assert len(messages()) > 400
    assert {message.kind for message in messages()} > {"InvalidSpec", "ServiceError", "HcsError", "UsageError"}


@pytest.mark.parametrize("part", ["text", "hint"])
def test_messages_are_one_line_in_plain_words(part: str) -> None:
    wrong = []
    for message in messages():
        text = words(getattr(message, part) or "x")
        if (
            "\n" in text
            or FORBIDDEN.search(text)
            or (text.endswith(".") and not text.endswith("..."))
            or text != text.strip()
        ):
            wrong.append(message.line())
    assert wrong == []


def test_messages_begin_with_what_cannot_be_done() -> None:
    wrong = [
        message.line()
        for message in messages()
        if message.kind in ("LongshoreError", "StoreError", "EngineClosed")
        and not message.text.startswith(("cannot ", *SENTENCES))
    ]
    assert wrong == []


def test_operations_are_verbs() -> None:
    wrong = [
        message.line()
        for message in messages()
        if message.operation and not re.match(r"\{|[a-z]+(?<!ing)\b", message.operation)
    ]
    assert wrong == []


def test_hints_are_imperatives() -> None:
    wrong = [
        message.line()
        for message in messages()
        if message.hint
        and not message.hint.startswith(("usage: ", "did you mean "))
        and words(message.hint).split()[0].strip("`,:;") not in {*IMPERATIVES, "{}"}
    ]
    assert wrong == []


def test_service_errors_have_hints() -> None:
    wrong = [message.line() for message in messages() if message.kind == "ServiceError" and not message.hint]
    assert wrong == []


def test_hcs_codes_have_hints_in_plain_words() -> None:
    from longshore.hcs.dll import hresults

    for table in (hresults._SERVICE, hresults._OTHERS):
        for code, known in table.items():
            assert not FORBIDDEN.search(known.words), code
            assert known.hint is None or known.hint.split()[0].strip("`") in IMPERATIVES, code
            assert hresults.HcsError("start", "web", code).hint, code


if __name__ == "__main__":
    LIST.write_text(listed())
