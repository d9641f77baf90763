"""Options that describe a container, and the spec that they mean: shared by run, create and explain."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import windows
from .parser import Arguments, Option, UsageError, looks_like_root

if TYPE_CHECKING:
    from ..spec import Spec


def number(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def amount(text: str) -> float:
    """A number that may have a fraction; neither infinite nor "nan"."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not abs(value) < 1e18:  # nor infinite, nor "nan"
        raise ValueError(f"{text!r} is not a number")
    return value


def seconds(text: str) -> float:
    """A length of time: `10`, `1.5`, `90s`, `5m`, `2h`."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    unit = units.get(text[-1:], 0)
    try:
        value = amount(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        raise ValueError(f"{text!r} is not a length of time; write seconds, or 90s, 5m, 2h") from None
    if value < 0:
        raise ValueError(f"{text!r} is negative")
    return value


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
           help="set a variable; without a value, it is taken from here"),
    Option("--env-file", kind="list", metavar="FILE", complete="file", help="read variables from a file, one a line"),
    Option("-w", "--workdir", kind="value", metavar="DIR", help="working directory in the container"),
    Option("-u", "--user", kind="value", metavar="USER[:GROUP]", help="name or uid to run as"),
    Option("-i", "--interactive", help="give the command this program's standard input"),
)  # fmt: skip

TTY = Option("-t", "--tty", help="give the command a terminal")

LIMITS = (
    Option("-m", "--memory", kind="value", metavar="SIZE", help="memory limit: 512m, 2g"),
    Option("--memory-swap", kind="value", metavar="SIZE", help="memory and swap together; -1 is no limit"),
    Option("--memory-reservation", kind="value", metavar="SIZE", help="memory kept when the machine is short of it"),
    Option("--cpus", kind="value", metavar="N", convert=amount, help="processors' worth of time: 1.5"),
    Option("--cpu-weight", kind="value", metavar="N", convert=number, help="share of time: 1 to 10000, 100 is usual"),
    Option("--cpuset-cpus", kind="value", metavar="LIST", help="which processors: 0-1,3"),
    Option("--pids-limit", kind="value", metavar="N", convert=number, help="processes and threads; -1 is no limit"),
)  # fmt: skip

CONTAINER = (
    Option("--name", kind="value", metavar="NAME", help="id of the container (default: one is made up)"),
    *PROCESS,
    Option("-t", "--tty",
           help="give the command a terminal; one of `run -it` can be left (--detach-keys), and so it also stays if"
                " this program is killed by SIGKILL"),
    Option("-v", "--volume", kind="list", metavar="SOURCE:TARGET[:ro]", complete="file",
           help="show a file or folder of this machine in the container"),
    Option("--mount", kind="list", metavar="type=..,source=..,target=..", help="the same, in words; also type=tmpfs"),
    Option("--tmpfs", kind="list", metavar="TARGET[:OPTIONS]", help="an empty file system in memory"),
    Option("--show", kind="list", metavar="DIR", complete="file",
           help="on a `host` root: show this folder of the machine too, read-only"),
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
    Option("--ulimit", kind="list", metavar="NAME=SOFT[:HARD]", help="a limit of each process: nofile=1024:2048"),
    Option("--init", "--no-init", dest="init", kind="flag", default="auto",
           help="run a small init as pid 1 (default: yes, if catatonit is installed)"),
    Option("--stop-signal", kind="value", metavar="SIGNAL", complete="signal",
               help="what `stop` sends (default: TERM)"),
    Option("-l", "--label", kind="list", metavar="NAME[=TEXT]", convert=pair, help="a label"),
    Option("--log-size", kind="value", metavar="SIZE",
           help="bound of the log of a kept container (default: 64m); there it begins anew: what was before is"
                " dropped, and `logs` tells it as a gap"),
    Option("--layer", kind="list", metavar="DIR", complete="directory",
           help="instead of a root: a read-only folder; give the nearest one first"),
    Option("--scratch", kind="value", metavar="DIR", complete="directory",
           help="where what is written over the layers stays (default: it goes with the container)"),
    Option("--spec", kind="value", metavar="FILE", complete="file",
           help="instead of a root: an OCI runtime specification (config.json); options change it"),
    *windows.OPTIONS,
)  # fmt: skip

ROOTS = """\
ROOT is what the command sees as its file system:
  host           a safe view of this machine: its programs and libraries, none of its
                 secrets; what is written stays in the container and goes with it
  host:full      all of this machine but longshore's own state: for trusted code only
  rootfs:DIR     a folder that holds a root file system; it is written to in place, as
                 root unless -u is given
  ./DIR          an OCI bundle: a folder with a config.json
In place of ROOT, --layer or --spec may be given. `host`, `host:full` and --layer are
copy-on-write: this machine's files stay as they are. On `host` the command is nobody
unless -u is given, also for what -v shows of this machine."""


def rootless(args: Arguments) -> bool:
    """Whether the options already say what the root is."""
    return bool(args.layer or args.spec or args.layer_chain)


def environment(args: Arguments) -> dict[str, str]:
    """What --env-file and --env mean, in this order."""
    lines: list[str] = []
    for path in args.env_file:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                found = [line.rstrip("\r\n") for line in file]
        except OSError as error:
            raise UsageError(f"--env-file: cannot read {path}: {error.strerror}") from None
        lines += [line for line in found if line.strip() and not line.lstrip().startswith("#")]
    variables: dict[str, str] = {}
    for line in [*lines, *args.env]:
        name, equals, value = line.partition("=")
        if equals:
            variables[name] = value
        elif name in os.environ:
            variables[name] = os.environ[name]
    return variables


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
    from ..spec import Mount

    mounts: list[Any] = [Mount.parse(text) for text in [*args.volume, *args.mount]]
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
        name, equals, value = text.replace(":", "=", 1).partition("=")
        if name == "seccomp" and value:
            found["seccomp"] = value if value in ("default", "unconfined") else os.path.abspath(value)
        elif name == "no-new-privileges" and value in ("", "true", "false"):
            found["no_new_privileges"] = value != "false" or not equals
        else:
            raise UsageError(f"--security-opt: {text!r} is not known", hint="seccomp=... or no-new-privileges=...")
    if args.userns is not None:
        parts = args.userns.split(":")
        if len(parts) != 3 or not all(part.isdigit() for part in parts):
            raise UsageError(f"--userns: {args.userns!r} is not INSIDE:OUTSIDE:COUNT", hint="as 0:100000:65536")
        found["userns"] = tuple(int(part) for part in parts)
    return found


def _rlimits(args: Arguments) -> list[Any]:
    from ..spec import Rlimit

    made = []
    for text in args.ulimit:
        name, _, numbers = text.partition("=")
        soft, colon, hard = numbers.partition(":")
        if not soft.isdigit() or (colon and not hard.isdigit()):
            raise UsageError(f"--ulimit: {text!r} is not NAME=SOFT[:HARD]", hint="as nofile=1024:2048")
        made.append(Rlimit(name=name, soft=int(soft), hard=int(hard or soft)))
    return made


def _document(path: str, word: str) -> tuple[dict[str, Any], str]:
    """An OCI runtime specification and the folder that its relative paths are meant from."""
    import msgspec

    file = os.path.join(path, "config.json") if os.path.isdir(path) else path
    try:
        with open(file, "rb") as opened:
            document = msgspec.json.decode(opened.read())
    except OSError as error:
        raise UsageError(f"{word}: cannot read {file}: {error.strerror}") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise UsageError(f"{word}: {file} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{word}: {file} is not an OCI runtime specification: it holds no object")
    return document, os.path.dirname(os.path.abspath(file))


def _oci(args: Arguments) -> dict[str, Any] | None:
    """The OCI document that --spec or a bundle as ROOT gives."""
    root = args.root
    if args.spec is not None:
        path, word = args.spec, "--spec"
    elif root is not None and os.sep in root and not root.startswith("rootfs:"):
        if not os.path.isfile(os.path.join(root, "config.json")):
            raise UsageError(
                f"root: {root!r} is not a bundle: it holds no config.json",
                hint=f"for a root file system write rootfs:{os.path.abspath(root)}",
            )
        path, word = root, "root"
        args.root = None
    else:
        if root is not None and not looks_like_root(root) and os.path.isdir(root):
            bundle = os.path.isfile(os.path.join(root, "config.json"))
            raise UsageError(
                f"root: {root!r} is not known",
                hint=f"for the bundle in this folder write ./{root}"
                if bundle
                else f"for the root file system in this folder write rootfs:{root}",
            )
        return None
    document, base = _document(path, word)
    place = document.get("root")
    if isinstance(place, dict) and isinstance(place.get("path"), str) and not os.path.isabs(place["path"]):
        document = document | {"root": place | {"path": os.path.join(base, place["path"])}}
    return document


def spec(args: Arguments, *, size: tuple[int, int] | None = None) -> Spec:
    """The spec that the options mean. UsageError, or InvalidSpec with the field's path."""
    from .. import host
    from ..spec import Layers, Spec

    document = _oci(args)
    if not args.command and document is None and not (args.servicing or args.command_line):
        raise UsageError("there is no command to run", hint="write it after the root: `longshore run host -- echo hi`")
    security = _security(args)
    parents = [os.path.abspath(path) for path in args.layer]
    if args.layer_chain is not None:
        if parents:
            raise UsageError("--layer and --layer-chain: give one of them")
        parents = windows.layer_chain(os.path.abspath(args.layer_chain))
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
        "windows": windows.options(args),
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
            raise UsageError(f"{word} takes the place of a root, but `{args.root}` is given too")
    elif args.scratch is not None:
        raise UsageError("--scratch goes with --layer")
    if args.root is not None:
        kind, _, path = args.root.partition(":")
        fields["root"] = f"rootfs:{os.path.abspath(path)}" if kind == "rootfs" and path else args.root
    fields["init"] = (document is None and host.has_init()) if args.init == "auto" else args.init
    if document is not None:
        return Spec.from_oci(document, **fields)
    return Spec.of(**fields)


def made_up_name() -> str:
    """An id for a container that was given none."""
    return os.urandom(6).hex()
