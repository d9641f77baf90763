"""Whether a program can see the processes that the records of a store name.

A pid names a process in one pid namespace, and a start time is counted in one time namespace, of one boot. A program in
other namespaces, or without a usable /proc, finds no process or a wrong one under a recorded pid. It must not conclude
that the container has ended. So each record and each lease names the boot and the namespaces of its pids. A program
compares them with its own before it judges, kills or cleans up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

Sight = Literal["visible", "gone", "hidden"]

APART = "apart:"
"""Before a boot id that is not the kernel's own: it may change while processes live on (systemd-nspawn gives one)."""


def _unknown(namespaces: str) -> bool:
    return False


class Viewpoint(msgspec.Struct, frozen=True):
    """The boot and the namespaces of a program. The default is for a platform without namespaces."""

    boot: str = ""  # of this boot; with `APART` where the boot id is not the kernel's own
    namespaces: str = ""  # in which its pids and start times are valid
    blind: str = ""  # why this program can judge no process at all; empty if it can
    are_gone: Callable[[str], bool] = _unknown  # whether no process is in these namespaces any more: True if certain

    def sight(self, boot: str, namespaces: str) -> tuple[Sight, str]:
        """Return whether this program can judge pids of that boot and those namespaces, and the reason if it cannot.

        `gone`: none of their processes can be alive.
        """
        if self.blind:
            return "hidden", self.blind
        if boot != self.boot:
            unsure = boot.startswith(APART) or self.boot.startswith(APART)
            if unsure and not self.are_gone(namespaces):
                return "hidden", f"it belongs to boot `{boot}`, and this program cannot see whether that has ended"
            return "gone", ""
        if namespaces == self.namespaces:
            return "visible", ""
        if self.are_gone(namespaces):
            return "gone", ""
        return "hidden", f"it belongs to other namespaces ({namespaces}) than this program ({self.namespaces})"


__all__ = ["APART", "Sight", "Viewpoint"]
