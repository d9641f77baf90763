"""What an attacker, or a program with a bug, may give: right shapes with wrong values, wrong shapes, and odd text."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

ODD = [
    "",
    " ",
    ".",
    "..",
    "../x",
    "../../etc/shadow",
    "/",
    "//",
    "/../..",
    "a/b",
    "a\0b",
    "a\nb",
    "\x1b[2J\x1b]0;x\x07",
]
ODD += [
    "\r",
    "\u202e",
    "\ud800",
    "\U0010ffff",
    "x" * 200,
    "x" * 5000,
    "-1",
    "0",
    "root",
    "host",
    "host:full",
    "rootfs:",
]
ODD += [
    "host:full",
    "rootfs:/",
    "rootfs:../x",
    "rootfs:/nonexistent",
    "/proc/self/root",
    "/dev/../proc",
    "A=B",
    "=",
    "1e9",
]
ODD += ["TERM", "SIGKILL", "65", "0:0", "-1:-1", "4294967296", "nobody", "%s%n", "$(id)", "`id`", ";id", "--help", "-"]
ODD_TEXT = st.sampled_from(ODD)
TEXT = ODD_TEXT | st.text(max_size=20)
NUMBER = st.sampled_from([-1, 0, 1, 2**31, 2**32, 2**63, 2**64, 10**30, -(2**63)]) | st.integers()
FLOAT = st.floats() | st.sampled_from([0.5, 1e308, -0.0])
SCALAR = st.none() | st.booleans() | NUMBER | FLOAT | TEXT | st.binary(max_size=5)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBER | FLOAT | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)

PATH = st.sampled_from(["/", "/tmp", "/proc", "/sys", "/dev/null", "/usr/..", "/x/../../y", "/a b", "/\x1b[31m"]) | TEXT
MOUNT = st.fixed_dictionaries(
    {},
    optional={
        "source": PATH,
        "target": PATH,
        "type": st.sampled_from(["bind", "tmpfs", "proc", ""]),
        "read_only": st.booleans() | ANYTHING,
        "options": st.lists(TEXT, max_size=3) | ANYTHING,
    },
)
SECURITY = st.fixed_dictionaries(
    {},
    optional={
        "cap_add": st.lists(st.sampled_from(["ALL", "SYS_ADMIN", "fly", ""]) | TEXT, max_size=3),
        "cap_drop": st.lists(TEXT, max_size=2),
        "no_new_privileges": st.booleans(),
        "seccomp": st.sampled_from(["default", "unconfined", "/etc/passwd", "/dev/zero", "/"]) | TEXT,
        "masked_paths": st.none() | st.lists(PATH, max_size=2),
        "userns": st.none() | st.tuples(NUMBER, NUMBER, NUMBER),
    },
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "root": st.sampled_from(["host", "host:full", ""]) | TEXT | PATH.map("rootfs:{}".format),
    "args": st.lists(TEXT, max_size=4),
    "env": st.dictionaries(TEXT, TEXT, max_size=3) | st.lists(TEXT, max_size=3),
    "cwd": PATH,
    "user": TEXT,
    "hostname": TEXT,
    "terminal": st.booleans(),
    "size": st.tuples(NUMBER, NUMBER),
    "mounts": st.lists(MOUNT | TEXT | st.tuples(PATH, PATH).map(":".join), max_size=3),
    "memory": NUMBER | TEXT,
    "memory_swap": NUMBER | TEXT,
    "cpus": FLOAT | NUMBER,
    "cpu_weight": NUMBER,
    "cpuset": TEXT | st.sampled_from(["0", "0-1", "9999", "1-0"]),
    "pids": NUMBER,
    "network": st.sampled_from(["none", "host", "bridge"]),
    "security": SECURITY,
    "read_only": st.booleans(),
    "rlimits": st.lists(st.fixed_dictionaries({"name": TEXT, "soft": NUMBER, "hard": NUMBER}), max_size=2),
    "labels": st.dictionaries(TEXT, TEXT, max_size=3),
    "init": st.booleans(),
    "layers": st.fixed_dictionaries({"parents": st.lists(PATH, max_size=3)}, optional={"scratch": PATH}),
    "show": st.lists(PATH, max_size=2),
    "stop_signal": NUMBER | TEXT,
    "log_size": NUMBER | TEXT,
}
SPEC = st.fixed_dictionaries({}, optional={name: made | ANYTHING for name, made in FIELDS.items()}) | st.dictionaries(
    TEXT, ANYTHING, max_size=3
)
"""Fields of a spec, as keyword arguments."""

GOOD_SPEC = st.fixed_dictionaries(
    {"args": st.just(["true"])}, optional={name: made for name, made in FIELDS.items() if name != "args"}
)
"""The same, with the right types: more of them come far."""

NAMESPACE = st.fixed_dictionaries({"type": TEXT | st.sampled_from(["pid", "user"])}, optional={"path": PATH})
DOCUMENT = st.fixed_dictionaries(
    {
        "ociVersion": st.just("1.0.2") | JSON,
        "process": st.fixed_dictionaries(
            {"args": st.just(["true"]) | st.lists(TEXT, max_size=3) | JSON, "cwd": st.just("/") | PATH | JSON},
            optional={
                "env": st.lists(TEXT, max_size=3) | JSON,
                "user": st.fixed_dictionaries({"uid": NUMBER, "gid": NUMBER}) | JSON,
                "capabilities": st.dictionaries(st.sampled_from(["bounding", "effective"]), st.lists(TEXT)) | JSON,
                "rlimits": JSON,
                "terminal": st.booleans() | JSON,
            },
        )
        | JSON,
        "root": st.fixed_dictionaries({"path": st.just("/") | PATH}, optional={"readonly": st.booleans()}) | JSON,
    },
    optional={
        "hostname": TEXT | JSON,
        "mounts": st.lists(
            st.fixed_dictionaries(
                {"destination": PATH},
                optional={"type": TEXT | st.just("bind"), "source": PATH, "options": st.lists(TEXT, max_size=2)},
            ),
            max_size=3,
        )
        | JSON,
        "linux": st.fixed_dictionaries(
            {},
            optional={
                "namespaces": st.lists(NAMESPACE, max_size=3) | JSON,
                "resources": JSON,
                "seccomp": JSON,
                "maskedPaths": st.lists(PATH, max_size=2) | JSON,
                "cgroupsPath": PATH | JSON,
            },
        )
        | JSON,
        "annotations": st.dictionaries(TEXT, TEXT, max_size=2) | JSON,
        "hooks": JSON,
    },
)
