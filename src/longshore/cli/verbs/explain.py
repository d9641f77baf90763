"""`longshore explain`: what would be done, before the deed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments import options
from ..arguments.parser import Arguments, HelpWanted, Option, UsageError, Verb, parse
from ..terminal.output import as_json, write
from . import run as run_verb

if TYPE_CHECKING:
    from ...compute.values import Plan
    from ...engine.engine import Engine

FORMAT = (
    Option("--json", dest="json", help="as JSON, in a stable order for comparison"),
    Option("--format", kind="value", choices=("text", "json"), default="text", help="text (default) or json"),
)

HINT = "write `longshore explain run host -- echo hi`"


def _inner(words: list[str], args: Arguments) -> Arguments:
    """The arguments of the `run` or `create` that is to be explained; they may hold our own options too."""
    if not words:
        raise UsageError("explain needs a command line", hint=HINT)
    name, *rest = words
    if name not in ("run", "create"):
        raise UsageError(
            f"explain knows `run` and `create`, not `{name}`", hint="write `longshore explain run host -- echo hi`"
        )
    inner = Verb(
        name,
        "",
        arguments=["ROOT"],
        command=True,
        options=(*run_verb.RUNNING, *options.CONTAINER, *FORMAT),
        rootless=options.rootless,
        examples=(),
    )
    try:
        return parse(inner, rest, args)
    except HelpWanted:
        raise HelpWanted(VERB) from None


def before(args: Arguments) -> int | None:
    words = list(args.words)
    while words and words[0] in ("--json", "--format=json"):
        words.pop(0)
        args.json = True
    args.inner = _inner(words, args)
    args.json = bool(args.json or args.inner.json or args.inner.format == "json")
    return None


async def run(engine: Engine, args: Arguments) -> int:
    import msgspec

    from ..terminal import terminal

    inner = args.inner
    inner.resolved = {}
    plan = await engine.plan(
        options.spec(inner, size=terminal.size() if inner.tty else None),
        id=inner.name or "example",
        platform=inner.platform,
        entrypoint=options.entrypoint(inner),
    )
    if inner.resolved:
        plan = msgspec.structs.replace(plan, reasons=plan.reasons | inner.resolved)
    write(as_json(plan) if args.json else _text(plan).encode("utf-8", "backslashreplace"))
    return 0


def _text(plan: Plan) -> str:
    from ..terminal.output import command_text, escaped

    parts = []
    for name, document in plan.documents.items():
        parts.append(f"# {name}\n{as_json(document).decode()}")
    parts.append("# mounts\n" + "".join(f"{escaped(line)}\n" for line in plan.mounts))
    parts.append("# command lines\n" + "".join(f"{command_text(line)}\n" for line in plan.commands))
    width = max((len(name) for name in plan.reasons), default=0)
    reasons = "".join(f"{name:<{width}}  {escaped(why)}\n" for name, why in sorted(plan.reasons.items()))
    parts.append("# settings, and why\n" + reasons)
    return "\n".join(parts)


VERB = Verb(
    "explain",
    "Show what `run` or `create` would do: documents, mounts, command lines, and each default with its reason.",
    arguments=["WORD..."],
    options=FORMAT,
    before=before,
    run=run,
    verbatim=True,
    text="No container is made.",
    examples=[
        ("longshore explain run host -- echo hi", "as text"),
        ("diff <(longshore explain --json run host -- sh) <(longshore explain --json run -m 1g host -- sh)",
         "what one option changes"),
    ],
)  # fmt: skip
