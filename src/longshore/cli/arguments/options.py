"""Options that describe a container, and the spec that they mean: shared by run, create and explain."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from . import windows_options
from .parser import Arguments, Option, UsageError, looks_like_root

if TYPE_CHECKING:
    from ...spec import Spec


_AMOUNT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


def number(text: str) -> int:
    """A whole number, in the digits that a shell has."""
    if not re.fullmatch(r"[+-]?[0-9]{1,30}", text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def amount(text: str) -> float:
    """A number that may have a fraction; neither infinite nor "nan"."""
    if not _AMOUNT.fullmatch(text) or not abs(value := float(text)) < 1e18:
        raise ValueError(f"{text!r} is not a number")
    return value


def seconds(text: str) -> float:
    """A length of time: `10`, `1.5`, `90s`, `5m`, `2h`, `1m30s`, `500ms`."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
    if text.startswith("-"):
        raise ValueError(f"{text!r} is negative")
    try:
        if re.fullmatch(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|[smhd]))+", text):
            parts = re.findall(r"([0-9.]+)(ms|[smhd])", text)
            return sum(amount(value) * units[unit] for value, unit in parts)
        return amount(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a length of time; write seconds, or 90s, 5m, 2h, 1m30s") from None


def pair(text: str) -> tuple[str, str]:
    """NAME=VALUE; without a value it is empty."""
    name, _, value = text.partition("=")
    if not name:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name, value


def variable(text: str) -> str:
    """NAME=VALUE, or NAME for the value that it has here."""
    if not text or text.startswith("="):
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return text


PROCESS = (
    Option("-e", "--env", kind="list", metavar="NAME[=VALUE]", convert=variable,
           help="set a variable; without a value, use the one set here"),
    Option("--env-file", kind="list", metavar="FILE", complete="file",
           help="read variables from a file: NAME=value on each line, unquoted; a NAME alone: the value here"),
    Option("-w", "--workdir", kind="value", metavar="DIR", help="working directory in the container"),
    Option("-u", "--user", kind="value", metavar="USER[:GROUP]", help="name or uid to run as"),
    Option("-i", "--interactive", help="pass this program's standard input to the command"),
)  # fmt: skip

TTY = Option("-t", "--tty", help="give the command a terminal")

LIMITS = (
    Option("-m", "--memory", kind="value", metavar="SIZE", help="memory limit: 512m, 2g"),
    Option("--memory-swap", kind="value", metavar="SIZE", help="memory plus swap; -1 means no limit"),
    Option("--memory-reservation", kind="value", metavar="SIZE", help="memory to keep when the machine is short of it"),
    Option("--cpus", kind="value", metavar="N", convert=amount, help="processor time, in processors: 1.5"),
    Option("--cpu-weight", kind="value", metavar="N", convert=number, help="share of time: 1 to 10000, usually 100"),
    Option("--cpuset-cpus", kind="value", metavar="LIST", help="which processors: 0-1,3"),
    Option("--pids-limit", kind="value", metavar="N", convert=number, help="processes and threads; -1 means no limit"),
)  # fmt: skip

POLICIES = ("missing", "always", "newer", "never")

PLATFORM = Option("--platform", kind="value", metavar="OS/ARCH[/VARIANT]",
                  help="the image for this platform: linux/arm64 (default: this machine's)")  # fmt: skip

IMAGE = (
    Option("--pull", kind="value", choices=POLICIES,
           help="when to ask the image's registry: if it is not here (missing, the default), always, always but go on"
                " with what is here if it cannot be reached (newer), never"),
    PLATFORM,
    Option("--entrypoint", kind="value", metavar="PROGRAM",
           help="instead of the image's entrypoint and command: a program, or a JSON list; '' is none"),
)  # fmt: skip

QUIET_PULL = Option("-q", "--quiet", help="do not show how far a pull is")

CONTAINER = (
    Option("--name", kind="value", metavar="NAME", help="id of the container (default: a generated one)"),
    *PROCESS,
    Option("-t", "--tty",
           help="give the command a terminal; a container of `run -it` can be detached (--detach-keys), and stays"
                " if SIGKILL ends this program"),
    Option("-v", "--volume", kind="list", metavar="SOURCE:TARGET[:ro]", complete="file",
           help="mount a file or folder of this machine in the container"),
    Option("--mount", kind="list", metavar="type=..,source=..,target=..",
           help="the same by fields, also type=tmpfs; quote a field with a comma: '\"source=/a,b\",target=/x'"),
    Option("--tmpfs", kind="list", metavar="TARGET[:OPTIONS]", help="an empty file system in memory"),
    Option("--show", kind="list", metavar="DIR", complete="file",
           help="on a `host` root: also show this folder of the machine, read-only"),
    *LIMITS,
    Option("--hostname", kind="value", metavar="NAME", help="host name in the container"),
    Option("--network", "--net", kind="value", dest="network", choices=("none", "host"),
           help="none (default): loopback only; host: this machine's network"),
    Option("--read-only", help="make the root file system read-only"),
    Option("--cap-add", kind="list", metavar="CAP", complete="capability", help="add a capability: NET_ADMIN"),
    Option("--cap-drop", kind="list", metavar="CAP", complete="capability", help="drop a capability, or ALL"),
    Option("--security-opt", kind="list", metavar="WHAT",
           help="seccomp=unconfined|default|FILE, no-new-privileges=false"),
    Option("--userns", kind="value", metavar="INSIDE:OUTSIDE:COUNT", help="map user ids: 0:100000:65536"),
    Option("--ulimit", kind="list", metavar="NAME=SOFT[:HARD]",
           help="a limit of each process: nofile=1024:2048, core=unlimited"),
    Option("--init", "--no-init", dest="init", kind="flag", default="auto",
           help="run a small init as pid 1 (default: yes, if there is one)"),
    Option("--stop-signal", kind="value", metavar="SIGNAL", complete="signal",
               help="signal of `stop`, by name or number: INT, RTMIN+3, RTMAX-1 (default: TERM)"),
    Option("-l", "--label", kind="list", metavar="NAME[=TEXT]", convert=pair, help="a label"),
    Option("--log-size", kind="value", metavar="SIZE",
           help="limit of the log of a kept container (default: 64m); at the limit the log starts again, and"
                " `logs` reports the lost output as a gap"),
    Option("--layer", kind="list", metavar="DIR", complete="directory",
           help="instead of a root: a read-only folder; give the topmost first"),
    Option("--scratch", kind="value", metavar="DIR", complete="directory",
           help="where what is written over the layers stays (default: it goes with the container)"),
    Option("--spec", kind="value", metavar="FILE", complete="file",
           help="instead of a root: an OCI runtime specification (config.json); options change it"),
    *IMAGE,
    *windows_options.OPTIONS,
)  # fmt: skip

ROOTS = """\
ROOT is the file system that the command sees:
  host           a safe view of this machine: its programs and libraries, none of its
                 secrets; changes stay in the container and are removed with it
  host:full      all of this machine except longshore's state: for trusted code only
  NAME           an image, such as python:3.12-slim or ghcr.io/owner/app:1; pulled if it
                 is not on this machine. The image sets command, user, folder and
                 variables that you do not set. image:NAME is always an image
  rootfs:DIR     a folder with a root file system; used in place, as root unless -u is
                 given
  ./DIR          an OCI bundle: a folder with a config.json
--layer or --spec can replace ROOT. `host`, `host:full`, --layer and images are
copy-on-write: the files of this machine or image stay as they are. On `host` the
command is nobody unless -u is given, also for what -v shows of this machine."""


def rootless(args: Arguments) -> bool:
    """Whether the options already say what the root is."""
    return bool(args.layer or args.spec or args.layer_chain)


def environment(args: Arguments) -> dict[str, str]:
    """What --env-file and --env mean, in this order. A name without a value has the value that it has here."""
    lines = [line for path in args.env_file for line in _env_lines(path)]
    variables: dict[str, str] = {}
    for line in [*lines, *args.env]:
        name, equals, value = line.partition("=")
        if equals:
            variables[name] = value
        elif name in os.environ:
            variables[name] = os.environ[name]
    return variables


def _env_lines(path: str) -> list[str]:
    """The variables of a file, as docker reads it: one a line, blanks before it dropped, quotes and all else kept.

    A byte order mark, and the carriage returns of line ends, are an editor's.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UsageError(f"--env-file: cannot read {path}: {error.strerror}") from None
    found = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        where = f"--env-file: {path}, line {number}"
        try:
            line = raw.removesuffix(b"\r").decode().lstrip()
        except UnicodeDecodeError:
            raise UsageError(f"{where}: is not UTF-8", hint="save the file as UTF-8") from None
        if not line or line.startswith("#"):
            continue
        name = line.partition("=")[0]
        if not name or name != name.strip() or any(each.isspace() for each in name):
            problem = "has a blank in it" if name else "is missing"
            raise UsageError(f"{where}: the name of a variable {problem}", hint="write NAME=value, without `export`")
        found.append(line)
    return found


def limits(args: Arguments) -> dict[str, Any]:
    """The fields of `Resources` that were asked for."""
    swap: Any = args.memory_swap
    found = {
        "memory": args.memory,
        "memory_swap": -1 if swap == "-1" else swap,
        "memory_reservation": args.memory_reservation,
        "cpus": args.cpus,
        "cpu_weight": args.cpu_weight,
        "cpuset": args.cpuset_cpus,
        "pids": args.pids_limit,
    }
    return {name: value for name, value in found.items() if value is not None}


def _mounts(args: Arguments) -> list[Any]:
    from ...spec import Mount

    mounts: list[Any] = [*map(Mount.parse, args.volume), *map(Mount.parse_words, args.mount)]
    for text in args.tmpfs:
        target, _, options = text.partition(":")
        words = options.split(",") if options else []
        rest = [word for word in words if word not in ("ro", "rw")]
        mounts.append(Mount(target=target, type="tmpfs", read_only="ro" in words, options=rest))
    return mounts


def _security(args: Arguments) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if args.cap_add:
        found["cap_add"] = args.cap_add
    if args.cap_drop:
        found["cap_drop"] = args.cap_drop
    for text in args.security_opt:
        name, equals, value = re.fullmatch(r"([^:=]*)([:=]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]  # all match
        if name == "seccomp" and value:
            found["seccomp"] = value if value in ("default", "unconfined") else os.path.abspath(value)
        elif name == "no-new-privileges" and value in ("", "true", "false"):
            found["no_new_privileges"] = value != "false" or not equals
        else:
            raise UsageError(f"--security-opt: {text!r} is not known", hint="use seccomp=... or no-new-privileges=...")
    if args.userns is not None:
        parts = args.userns.split(":")
        if len(parts) != 3 or not all(re.fullmatch("[0-9]{1,10}", part) for part in parts):
            raise UsageError(
                f"--userns: {args.userns!r} is not INSIDE:OUTSIDE:COUNT", hint="write --userns 0:100000:65536"
            )
        found["userns"] = tuple(int(part) for part in parts)
    return found


def _rlimits(args: Arguments) -> list[Any]:
    from ...spec import Rlimit

    made = []
    for text in args.ulimit:
        match = re.fullmatch(r"([^=]+)=([^:]+)(?::([^:]+))?", text)
        if match is None:
            raise UsageError(
                f"--ulimit: {text!r} is not NAME=SOFT[:HARD]", hint="write --ulimit nofile=1024:2048, or core=unlimited"
            )
        made.append(Rlimit(name=match[1], soft=match[2], hard=match[3] or match[2]))
    return made


def _is_path(root: str) -> bool:
    """Whether a root is a path; an image's name has slashes, too."""
    return root.startswith((".", "/", "~")) or (os.name == "nt" and ("\\" in root or root[1:2] == ":"))


def _oci(args: Arguments) -> dict[str, Any] | None:
    """The OCI document that --spec or a bundle as ROOT gives. What it says of the bundle's folder is in `resolved`."""
    from ...errors import InvalidSpec
    from ...spec.runtime_spec import read_document

    root = args.root
    if args.spec is not None:
        path, word = args.spec, "--spec"
    elif root is not None and _is_path(root):
        if not os.path.isfile(os.path.join(root, "config.json")):
            raise UsageError(
                f"root: {root!r} is not a bundle: it holds no config.json",
                hint=f"write rootfs:{os.path.abspath(root)} for a root file system",
            )
        path, word = root, "root"
        args.root = None
    else:
        if root is not None and not looks_like_root(root) and os.path.isfile(os.path.join(root, "config.json")):
            raise UsageError(
                f"root: {root!r} may be an image or the bundle in this folder",
                hint=f"write image:{root} for the image, ./{root} for the bundle",
            )
        return None
    try:
        document, args.resolved = read_document(path)
    except InvalidSpec as error:
        raise UsageError(f"{word}: {error.problem}" if error.field == "oci" else str(error), hint=error.hint) from None
    return document


def spec(args: Arguments, *, size: tuple[int, int] | None = None) -> Spec:
    """The spec that the options mean. UsageError, or InvalidSpec with the field's path."""
    from ...machine import has_init
    from ...spec import Layers, Spec, image_of_root

    document = _oci(args)
    has_own = args.root is not None and image_of_root(args.root) is not None  # the image may have a command
    if not args.command and document is None and not (has_own or args.servicing or args.command_line):
        raise UsageError("there is no command to run", hint="write it after the root: `longshore run host -- echo hi`")
    security = _security(args)
    parents = [os.path.abspath(path) for path in args.layer]
    if args.layer_chain is not None:
        if parents:
            raise UsageError("--layer and --layer-chain cannot be combined", hint="give one of them")
        parents = windows_options.layer_chain(os.path.abspath(args.layer_chain))
    fields: dict[str, Any] = {
        "args": args.command or None,
        "env": environment(args),
        "cwd": args.workdir,
        "user": args.user,
        "hostname": args.hostname,
        "terminal": args.tty or None,
        "size": size,
        "mounts": _mounts(args),
        "network": args.network,
        "security": security,
        "read_only": args.read_only or None,
        "rlimits": _rlimits(args),
        "labels": dict(args.label),
        "show": args.show,
        "stop_signal": args.stop_signal,
        "log_size": args.log_size,
        "command_line": args.command_line,
        "windows": windows_options.options(args),
        **limits(args),
    }
    fields = {name: value for name, value in fields.items() if value is not None and value not in ([], {})}
    if parents:
        fields["layers"] = Layers(
            parents=parents,
            scratch=None if args.scratch is None else os.path.abspath(args.scratch),
        )
        if args.root is not None:
            word = "--layer-chain" if args.layer_chain else "--layer"
            raise UsageError(f"{word} replaces the root, but `{args.root}` is given too", hint="leave one of them out")
    elif args.scratch is not None:
        raise UsageError("--scratch needs --layer", hint="add --layer FOLDER for each parent layer")
    if args.root is not None:
        kind, _, path = args.root.partition(":")
        fields["root"] = f"rootfs:{os.path.abspath(path)}" if kind == "rootfs" and path else args.root
    fields["init"] = (document is None and has_init()) if args.init == "auto" else args.init
    if document is not None:
        return Spec.from_oci(document, **fields)
    return Spec.of(**fields)


def entrypoint(args: Arguments) -> list[str] | None:
    """What --entrypoint means: a program, or a JSON list of words."""
    text = args.entrypoint
    if text is None or not text.startswith("["):
        return None if text is None else [text] if text else []
    import msgspec

    from ...typed_json import decode_json

    try:
        return decode_json(text, list[str])
    except msgspec.DecodeError:
        raise UsageError(
            f"--entrypoint: {text!r} is not a JSON list of words", hint='write \'["python", "-u"]\''
        ) from None


def made_up_name() -> str:
    """An id for a container that was given none."""
    return os.urandom(6).hex()
