"""What a program can see of the processes that a store speaks of, and from where they were started.

A pid names a process in one pid namespace, and a start time is counted in one time namespace, of one boot. A program in
other namespaces, or without a usable /proc, finds no process under a recorded pid, or a foreign one. It must not
conclude that the container has ended. So each record and each lease names the boot and the namespaces that its pids
belong to, and a program compares them with its own before it judges, kills or cleans up.
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
    """Where a program looks from. The default is that of a platform without namespaces."""

    boot: str = ""  # of this boot; with `APART` where the boot id is not the kernel's own
    namespaces: str = ""  # what pids and start times mean here
    blind: str = ""  # why no process can be judged from here at all; empty if they can
    are_gone: Callable[[str], bool] = _unknown  # whether no process is in these namespaces any more: True if certain

    def sight(self, boot: str, namespaces: str) -> tuple[Sight, str]:
        """Whether pids of that boot and those namespaces can be judged from here; the reason where they cannot.

        `gone`: no process of then can be alive.
        """
        if self.blind:
            return "hidden", self.blind
        if boot != self.boot:
            unsure = boot.startswith(APART) or self.boot.startswith(APART)
            if unsure and not self.are_gone(namespaces):
                return "hidden", f"it belongs to boot `{boot}`, and this program cannot tell whether that has ended"
            return "gone", ""
        if namespaces == self.namespaces:
            return "visible", ""
        if self.are_gone(namespaces):
            return "gone", ""
        return "hidden", f"it belongs to other namespaces ({namespaces}) than this program ({self.namespaces})"


__all__ = ["APART", "Sight", "Viewpoint"]
