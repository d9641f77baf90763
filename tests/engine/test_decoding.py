"""Types are prepared by one thread: msgspec crashes where a second one asks for a type that is half prepared."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import longshore

PROGRAM = """
    import threading, time
    import msgspec
    import msgspec._utils
    from longshore.typed_json import convert, decode_json
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
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all read\n", "")


def test_nothing_else_gives_msgspec_a_type() -> None:
    top = Path(longshore.__file__).parent
    typed = re.compile(r"msgspec\.(convert\(|json\.Decoder\(|json\.decode\([^\n]*\btype=)")
    found = [path for path in top.rglob("*.py") if typed.search(path.read_text(encoding="utf-8"))]
    assert found == [top / "typed_json.py"]
