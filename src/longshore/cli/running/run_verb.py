"""Run a verb with an engine: the loop, signals, and errors as lines and exit codes."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, UsageError, Verb
from ..terminal.exit_codes import ENGINE_FAILED
from ..terminal.output import Unwritable, complain, escaped

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable

    from ...engine.engine import Engine

make_engine: Callable[[Arguments], Engine] | None = None
"""Makes the engine; None for that of this machine. Tests set the simulator here."""

debugging = False
"""Whether errors are printed with a traceback."""


def run_with_engine(verb: Verb, args: Arguments) -> int:
    """Open an engine, run the verb, and return the exit code; errors become lines on stderr."""
    global debugging
    debugging = args.debug
    try:
        _import_engine()
        set_up_logging(args)
        import asyncio

        from ..terminal import own_signals

        return asyncio.run(own_signals.interruptible(_run(verb, args)))
    except BrokenPipeError:
        raise
    except Exception as error:
        return report_error(error)


def _import_engine() -> None:
    """Import the large modules as fast as possible."""
    collecting = gc.isenabled()
    gc.disable()  # what is imported stays: collecting meanwhile costs milliseconds and frees nothing
    without_ssl = "ssl" not in sys.modules
    if without_ssl:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio does without it, and starts 4 ms sooner
    try:
        import asyncio  # noqa: F401

        if make_engine is None:
            from ...engine import engine  # noqa: F401
    finally:
        if without_ssl:
            del sys.modules["ssl"]
        gc.freeze()
        if collecting:
            gc.enable()


async def _run(verb: Verb, args: Arguments) -> int:
    assert verb.run is not None
    async with (make_engine or _this_machine)(args) as engine:
        return await verb.run(engine, args)


def _this_machine(args: Arguments) -> Engine:
    from ...engine.engine import Engine

    return Engine(state=args.state, runtime=args.runtime)


def report_error(error: Exception) -> int:
    """Print an error, and return the exit code that it means."""
    if debugging:
        _show_trace(error)
    from ...errors import CommandNotExecutable, CommandNotFound, LongshoreError, TimeLimit

    if isinstance(error, LongshoreError):
        complain(str(error), hint=None if debugging else error.hint)  # the traceback has told it
        if isinstance(error, CommandNotFound):
            return 127
        if isinstance(error, CommandNotExecutable):
            return 126
        return 124 if isinstance(error, TimeLimit) else ENGINE_FAILED
    if isinstance(error, UsageError):
        complain(str(error), hint=error.hint)
        return ENGINE_FAILED
    if isinstance(error, Unwritable):
        complain(str(error))
        return ENGINE_FAILED
    if isinstance(error, OSError):
        complain(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return ENGINE_FAILED
    if isinstance(error, ImportError) and error.name and not error.name.startswith("longshore"):
        complain(f"a part of longshore is missing: {error}", hint=f"run `pip install {error.name.partition('.')[0]}`")
        return ENGINE_FAILED
    complain(
        f"this should not happen: {type(error).__name__}: {error}",
        hint="run `longshore --debug ...` to see where, and report it",
    )
    return ENGINE_FAILED


def _show_trace(error: BaseException) -> None:
    """Print the traceback of an error, with control characters in names and messages escaped."""
    import traceback

    for line in "".join(traceback.format_exception(error)).splitlines():
        print(escaped(line), file=sys.stderr)


def set_up_logging(args: Arguments) -> None:
    """Print the engine's messages as lines on stderr; tracebacks only with --debug."""
    import logging
    import os

    level = args.log_level or os.environ.get("LONGSHORE_LOG", "").lower() or ("debug" if args.debug else "warning")

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = escaped(record.getMessage())
            error = record.exc_info[1] if record.exc_info else None
            if error is not None:
                text += f" ({type(error).__name__}: {escaped(str(error))})"
            print(f"longshore: {record.levelname.lower()}: {text}", file=sys.stderr)
            if args.debug and error is not None:
                _show_trace(error)

    handler = Lines()
    logging.getLogger("asyncio").setLevel(logging.INFO)  # what it does with its loop is nobody's concern
    logger = logging.getLogger()
    logger.handlers[:] = [handler]
    logger.setLevel(getattr(logging, level.upper(), logging.WARNING))


async def for_each(ids: list[str], act: Callable[[str], Awaitable[None]]) -> int:
    """Call `act` for each container, also after a failure. Return the exit code of the first failure, else 0."""
    code = 0
    for id in ids:
        try:
            await act(id)
        except Exception as error:
            code = code or report_error(error)
    return code


async def for_each_at_once(ids: list[str], act: Callable[[str], Awaitable[None]]) -> int:
    """Do the same for all containers at the same time."""
    import asyncio

    codes = await asyncio.gather(*(for_each([id], act) for id in ids))
    return next((code for code in codes if code), 0)
