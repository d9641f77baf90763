"""What a test needs of the system that it runs on: `@needs("fork")`. Where that is missing, pytest says so by name.

A test says what it needs, not where it runs: so a system that has it runs the test.
"""

from __future__ import annotations

import os
import shutil
import signal

import pytest

HAS = {
    "fork": hasattr(os, "fork"),
    "signals": hasattr(signal, "SIGALRM") and hasattr(signal, "pthread_kill"),  # that interrupt a system call
    "mounts": hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount") is not None,
    "replacing what is open": os.name != "nt",  # a log is replaced while its reader has it open
    "counted renames": os.path.exists("/proc/sys/fs/inotify"),
    "a file system without hard links": os.path.exists("/dev/full"),
    "shell": os.path.exists("/bin/sh") and os.name != "nt",
    "pip": shutil.which("pip") is not None or os.path.exists("/proc/self/exe"),
}
"""By name, whether this system has it."""


def needs(*what: str) -> pytest.MarkDecorator:
    """Skip, and say why, where the system lacks one of these."""
    missing = [each for each in what if not HAS[each]]
    return pytest.mark.skipif(bool(missing), reason=f"this system has no {', '.join(missing)}")
