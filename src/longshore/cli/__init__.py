"""The command line: one file per verb; arguments, one call into the engine, one answer.

Start-up counts here, so this file imports next to nothing: a table says which module a verb is in, and only that
one is loaded. parser.py says why arguments are not read by a library.
"""

from __future__ import annotations

import sys

from .terminal.exit_codes import ENGINE_FAILED
from .verbs import ALIASES, HIDDEN, VERBS, load, take_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (None: that of this program) and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        _open_closed_streams()
        code = _main(words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # whoever read our output has gone: nothing more to say, as other programs do
        import os

        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        code = 141
    except OSError as error:
        if error.filename is not None:
            raise
        from .terminal.output import Unwritable, complain

        complain(str(Unwritable(1, error)))
        code = ENGINE_FAILED
    if argv is None:
        # what the interpreter would still do costs milliseconds, and threads that read our input would hold it up
        import os

        if sys.stderr is not None:
            sys.stderr.flush()
        os._exit(code)
    return code


def _open_closed_streams() -> None:
    """Have the null device as each standard stream that we were started without, before anything else is opened: a
    closed stream would be the number of a file or event loop of ours, and a container would be given that."""
    import os

    if os.name != "posix":
        return
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            from ..fs.standard_descriptors import fill

            fill()
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115  # as long as this program


def _main(words: list[str]) -> int:
    from .arguments.parser import HelpWanted, UsageError, parse, parse_global

    try:
        common, rest = parse_global(words)
        if not rest or common.help:
            if rest and common.help and (rest[0] in VERBS or rest[0] in ALIASES):
                raise HelpWanted(load(take_name(rest)[0]))
            return _overview(asked=common.help or not words)
        name = rest[0]
        if name not in VERBS and name not in ALIASES and name not in HIDDEN:
            from .arguments.parser import close_match

            known = [*VERBS, *ALIASES]
            raise UsageError(f"there is no verb `{name}`", hint=close_match(name, known) or "run `longshore --help`")
        name, after = take_name(rest)
        verb = load(name)
        args = parse(verb, after, common)
        args.line = words[: len(words) - len(rest)], rest
        if verb.simple is not None:
            return verb.simple(args)
        if verb.before is not None and (code := verb.before(args)) is not None:
            return code
    except HelpWanted as wanted:
        from .verbs.help import verb_help

        print(verb_help(wanted.verb), end="")
        return 0
    except UsageError as error:
        from .terminal.output import complain

        complain(str(error), hint=error.hint)
        return ENGINE_FAILED
    from .running.run_verb import run_with_engine

    return run_with_engine(verb, args)


def _overview(*, asked: bool) -> int:
    from .verbs.help import overview

    print(overview(), end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else ENGINE_FAILED
