"""What runs in the containers of a round: programs that number what they write, and end with a code of their own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

PAD = "x" * 50


@dataclass(frozen=True)
class Program:
    """A container's program. Its labels tell whoever finds the container what to expect of it."""

    kind: str
    args: list[str]
    code: int  # with which it ends by itself, or when it is asked to (`handles_term`)
    ends: bool = False
    writes: int = 0  # lines on its standard output; -1 for as many as it has time for
    handles_term: bool = False
    init: bool = False

    @property
    def labels(self) -> dict[str, str]:
        return {
            "kind": self.kind,
            "code": str(self.code),
            "ends": str(int(self.ends)),
            "writes": str(self.writes),
            "handles_term": str(int(self.handles_term)),
            "init": str(int(self.init)),
        }


LINES = f"""
i=0
while [ $i -lt $1 ]; do
  echo "out $i {PAD}"
  echo "err $i" >&2
  i=$((i+1))
  [ $((i % 40)) = 0 ] && sleep 0.02
done
exit $2
"""

ON_AND_ON = f"""
trap 'exit $1' TERM
i=0
while :; do
  echo "out $i {PAD}"
  echo "err $i" >&2
  i=$((i+1))
  [ $((i % 10)) = 0 ] && {{ sleep 0.05 & wait $!; }}
done
"""


def lines(choose: random.Random) -> Program:
    """Writes so many lines to both streams, and ends."""
    count, code = choose.randrange(1, 400), choose.randrange(1, 100)
    args = ["sh", "-c", LINES, "lines", str(count), str(code)]
    return Program("lines", args, code, ends=True, writes=count)


def on_and_on(choose: random.Random) -> Program:
    """Writes until it is asked to end."""
    code = choose.randrange(1, 100)
    return Program("on_and_on", ["sh", "-c", ON_AND_ON, "on", str(code)], code, writes=-1, handles_term=True)


def quiet(choose: random.Random) -> Program:
    """Says nothing and ends by itself."""
    code = choose.randrange(1, 100)
    args = ["sh", "-c", f"sleep {choose.uniform(0.0, 0.6):.2f}; exit {code}"]
    return Program("quiet", args, code, ends=True, init=choose.random() < 0.3)


def sleeper(choose: random.Random) -> Program:
    """Says nothing, and only a kill ends it."""
    return Program("sleeper", ["sleep", "1000"], 137)


KINDS: dict[str, Callable[[random.Random], Program]] = {
    "lines": lines,
    "on_and_on": on_and_on,
    "quiet": quiet,
    "sleeper": sleeper,
}
