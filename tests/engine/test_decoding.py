"""Types are prepared by one thread: msgspec crashes where a second one asks for a type that is half prepared."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import longshore

PROGRAM = """
    import threading, time
    import msgspec
    import msgspec._utils
    from longshore.decoding import convert, decode_json
    from longshore.spec import Spec

    DATA = b'{"args": ["true"], "mounts": [{"source": "/", "target": "/x"}]}'
    real = msgspec._utils._eval_type

    def slow(*args, **words):
        time.sleep(0.0005)  # as on a slow machine: others get their turn amid the preparation
        return real(*args, **words)

    msgspec._utils._eval_type = slow

    def read(number):
        time.sleep(number * 0.005)
        for _ in range(20):
            assert decode_json(DATA, Spec).mounts[0].target == "/x"
            assert convert({"args": ["true"]}, Spec).args == ["true"]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("all read")
"""


def test_a_type_can_be_read_for_the_first_time_by_many_threads_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all read\n", "")


def test_nothing_else_gives_msgspec_a_type() -> None:
    top = Path(longshore.__file__).parent
    found = [
        f"{path.relative_to(top)}:{call.lineno}"
        for path in top.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and path.name != "decoding.py" and gives_a_type(call)
    ]
    assert found == []


def gives_a_type(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    typed = len(call.args) > 1 or any(word.arg == "type" for word in call.keywords)
    return name == "msgspec.json.Decoder" or (name in ("msgspec.json.decode", "msgspec.convert") and typed)
