"""Command lines as data: options, verbs, and the one function that reads words by them.

Help and completion read the same data. It is not click or argparse for two measured reasons: their imports cost
18 and 5 ms of the 50 that an `exec` may take, and neither reads `ROOT [OPTIONS] [--] COMMAND...`, where options
may stand before and after the root but what follows the command is the command's alone.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Any

    from ...engine.engine import Engine


class UsageError(Exception):
    """A command line that cannot be meant as it stands."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class HelpWanted(Exception):
    """The user asked for help on a verb."""

    def __init__(self, verb: Verb) -> None:
        super().__init__(verb.name)
        self.verb = verb


class Option:
    """One option. `kind` is `flag`, `value` or `list`; `complete` says what its value may be, for completion."""

    __slots__ = ("choices", "complete", "convert", "default", "dest", "help", "hidden", "kind", "metavar", "names")

    def __init__(
        self,
        *names: str,
        help: str,
        kind: str = "flag",
        dest: str | None = None,
        metavar: str = "",
        default: Any = None,
        convert: Callable[[str], Any] | None = None,
        choices: Sequence[str] = (),
        complete: str = "",
        hidden: bool = False,
    ) -> None:
        self.names = names
        self.help = help
        self.kind = kind
        self.dest = dest or max(names, key=len).lstrip("-").replace("-", "_")
        self.metavar = metavar or ("|".join(choices) if choices else self.dest.upper())
        self.default = False if kind == "flag" and default is None else default
        self.convert = convert
        self.choices = choices
        self.complete = complete
        self.hidden = hidden

    def initial(self) -> Any:
        return [] if self.kind == "list" else self.default

    def read(self, name: str, text: str) -> Any:
        """The value that `text` means. UsageError names the option."""
        if self.choices and text not in self.choices:
            raise UsageError(f"{name}: {text!r} is not one of {', '.join(self.choices)}")
        if self.convert is None:
            return text
        try:
            return self.convert(text)
        except ValueError as error:
            raise UsageError(f"{name}: {error}", hint=getattr(error, "hint", None)) from None


class Arguments:
    """The values of one command line, by the names of options and arguments."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: Any) -> None: ...


class Verb:
    """One verb: what it takes, how it is taught, and what it does.

    `arguments` are names of positional arguments: `CONTAINER` for exactly one, `[CONTAINER]` for one or none,
    `CONTAINER...` and `[CONTAINER...]` for many. With `command`, what follows them is a command, verbatim: it begins
    at `--` or at the first word too many. `run` is called with an open engine; `simple`, instead, without one;
    `before`, if given, before anything heavy is imported, and its code ends the program unless None.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        *,
        arguments: Sequence[str] = (),
        command: bool = False,
        options: Sequence[Option] = (),
        examples: Sequence[tuple[str, str]],
        text: str = "",
        run: Callable[[Engine, Arguments], Awaitable[int]] | None = None,
        simple: Callable[[Arguments], int] | None = None,
        before: Callable[[Arguments], int | None] | None = None,
        rootless: Callable[[Arguments], bool] | None = None,
        verbatim: bool = False,
    ) -> None:
        self.name = name
        self.summary = summary
        self.arguments = arguments
        self.command = command
        self.options = options
        self.examples = examples
        self.text = text
        self.run = run
        self.simple = simple
        self.before = before
        self.rootless = rootless  # given what was read so far: there is no ROOT to come
        self.verbatim = verbatim  # every word is an argument, also one with a dash

    @property
    def usage(self) -> str:
        words = ["longshore", self.name]
        if self.options:
            words.append("[OPTIONS]")
        words += self.arguments
        if self.command:
            words += ["[--]", "COMMAND", "[ARG...]"]
        return " ".join(words)


GLOBAL = (
    Option("--root", kind="value", dest="state", metavar="DIR", complete="directory",
           help="state directory (default: $LONGSHORE_ROOT, else /run/longshore and /var/lib/longshore)"),
    Option("--runtime", kind="value", metavar="NAME", complete="runtime",
           help="crun, runc or a path (default: $LONGSHORE_RUNTIME, else the first that works)"),
    Option("--log-level", kind="value", choices=("debug", "info", "warning", "error"),
           help="log level of the engine (default: $LONGSHORE_LOG, else warning)"),
    Option("--debug", help="show the traceback of an error"),
    Option("-h", "--help", help="show this help"),
)  # fmt: skip


def _by_name(options: Sequence[Option]) -> dict[str, Option]:
    return {name: option for option in options for name in option.names}


def parse_global(words: Sequence[str]) -> tuple[Arguments, list[str]]:
    """Read the options before the verb; what is left begins with the verb."""
    common = Arguments(**{option.dest: option.initial() for option in GLOBAL})
    known = _by_name(GLOBAL)
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        if rest[0] == "--version":
            return common, ["version", *rest[1:]]
        _take_option(rest, known, common, "see `longshore --help`")
    return common, rest


def parse(verb: Verb, words: Sequence[str], common: Arguments) -> Arguments:
    """Read the words after the verb. UsageError, or HelpWanted."""
    args = Arguments(**{option.dest: option.initial() for option in verb.options})
    args.__dict__.update(common.__dict__)
    known = _by_name(GLOBAL) | _by_name(verb.options)
    plain: list[str] = []
    command: list[str] = []
    rest = list(words)
    hint = f"run `longshore {verb.name} --help`"
    while rest:
        word = rest[0]
        if verb.verbatim and not (word in ("-h", "--help") and not plain):
            plain = rest
            break
        if word == "--":
            if verb.command:
                command = rest[1:]
            else:
                plain += rest[1:]
            break
        if word.startswith("-") and word != "-":
            _take_option(rest, known, args, hint)
            continue
        if verb.command and _has_all(verb, plain, args, word):
            command = rest
            break
        plain.append(rest.pop(0))
    if args.help:
        raise HelpWanted(verb)
    _place(verb, plain, args, hint)
    args.command = command
    return args


def _has_all(verb: Verb, plain: list[str], args: Arguments, word: str) -> bool:
    """Whether the arguments before the command are complete, so that `word` begins it."""
    if len(plain) >= len(verb.arguments):
        return True
    return verb.rootless is not None and verb.rootless(args) and not looks_like_root(word)


def looks_like_root(word: str) -> bool:
    """Whether a word names a root file system, in the form that it has everywhere."""
    return word in ("host", "host:full") or word.startswith(("rootfs:", "image:"))


def _take_option(rest: list[str], known: dict[str, Option], args: Arguments, hint: str) -> None:
    """Take one option, or a cluster such as `-it`, with its value, from the front of `rest`."""
    word = rest.pop(0)
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        option = known.get(name)
        if option is None:
            raise UsageError(f"there is no option `{name}`", hint=_instead(name, known) or hint)
        if option.kind == "flag":
            if equals and value.lower() not in ("true", "t", "1", "false", "f", "0"):
                raise UsageError(f"{name} takes no value", hint=hint)
            _set(option, name, args, "false" if value.lower() in ("false", "f", "0") else "")
            return
        _set(option, name, args, value if equals else _value(rest, name, option, hint))
        return
    letters = word[1:]
    while letters:
        name, letters = f"-{letters[0]}", letters[1:]
        option = known.get(name)
        if option is None:
            inside = f" (in `{word}`)" if word != name else ""
            raise UsageError(f"there is no option `{name}`{inside}", hint=_instead(name, known) or hint)
        if option.kind == "flag":
            _set(option, name, args, "")
        else:
            _set(option, name, args, letters.removeprefix("=") if letters else _value(rest, name, option, hint))
            return


def _value(rest: list[str], name: str, option: Option, hint: str) -> str:
    if not rest or rest[0] == "--":
        raise UsageError(f"{name} needs a value ({option.metavar})", hint=hint)
    return rest.pop(0)


def _set(option: Option, name: str, args: Arguments, text: str) -> None:
    if option.kind == "flag":
        negated = name.startswith("--no-") and not option.dest.startswith("no_")
        args.__dict__[option.dest] = (text == "false") == negated
    elif option.kind == "list":
        args.__dict__[option.dest].append(option.read(name, text))
    else:
        args.__dict__[option.dest] = option.read(name, text)


def _place(verb: Verb, plain: list[str], args: Arguments, hint: str) -> None:
    """Give the positional words their names."""
    rest = list(plain)
    usage = f"usage: {verb.usage}"
    for index, pattern in enumerate(verb.arguments):
        name = pattern.strip("[].").lower()
        optional, many = pattern.startswith("["), "..." in pattern
        if not rest and not optional and not (verb.rootless is not None and index == 0 and verb.rootless(args)):
            raise UsageError(f"{verb.name} needs {_article(name)} {name}", hint=usage)
        if many:
            args.__dict__[name + "s"], rest = rest, []
        else:
            args.__dict__[name] = rest.pop(0) if rest else None
    if rest:
        if verb.arguments and verb.arguments[-1] == "CONTAINER":
            raise UsageError(f"{verb.name} takes one container, and `{rest[0]}` is a second one", hint=usage)
        raise UsageError(f"{verb.name} does not take `{rest[0]}`", hint=usage)
    del hint


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def close_match(name: str, known: Sequence[str] | dict[str, Option]) -> str | None:
    """`did you mean ...`, if something is spelled like it."""
    import difflib

    # without the dashes, which all options have: they would make any two of them alike
    words = {each.lstrip("-"): each for each in known}
    word = name.lstrip("-")
    found = difflib.get_close_matches(word, list(words), n=3, cutoff=0.7)
    found.sort(key=lambda each: sorted(each) != sorted(word))  # first what has letters exchanged
    return f"did you mean `{words[found[0]]}`?" if found else None


def _instead(name: str, known: dict[str, Option]) -> str | None:
    """What to do in place of an option that there is not."""
    from .other_tools import OPTIONS

    if "--volume" in known and name in OPTIONS:  # of what makes a container
        return OPTIONS[name]
    return close_match(name, {each: option for each, option in known.items() if each.startswith("--")})
