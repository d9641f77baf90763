"""A program of Unix: runs Windows' Python under Wine at a terminal, types, and tells what was seen.

python at_terminal.py FILE
    FILE is a JSON document: `typed`, which is typed once `ready` is on the screen; `arguments` of Python;
    `environment`. Written beside it as FILE.told: the exit code, and what was on the screen.

Only a program of Unix can make the terminal that Wine makes a console of; and Wine tells nobody when one has ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / ".wine-env"
LIMIT = 300.0


def main(file: str) -> None:
    asked = json.loads(Path(file).read_text())
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = os.environ | {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "WINEPREFIX": str(ROOT / "prefix"),
        "WINEDLLOVERRIDES": "mscoree,mshtml=",
        "TERM": "xterm",
        "WINEDEBUG": "-all",
        **asked["environment"],
    }
    program = subprocess.Popen(
        ["wine", str(ROOT / "python" / "python.exe"), *asked["arguments"]],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    screen, typed = b"", asked["typed"].encode()
    deadline = time.monotonic() + LIMIT
    try:
        while program.poll() is None and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.05)[0]:
                screen += os.read(ours, 65536)
            if typed and b"ready" in screen:
                os.write(ours, typed)
                typed = b""
    except OSError:  # EIO: nobody has the other side open any more
        pass
    finally:
        if program.poll() is None and time.monotonic() >= deadline:
            program.kill()
    told = Path(f"{file}.told.new")
    told.write_text(json.dumps({"code": program.wait(), "screen": screen.decode(errors="replace")}))
    told.rename(f"{file}.told")


if __name__ == "__main__":
    main(sys.argv[1])
