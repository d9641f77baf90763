"""Small root file systems for tests: links into /usr, which the test mounts, and files of their own."""

from __future__ import annotations

from pathlib import Path

USR = "/usr:/usr:ro"
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:Web:/home/web:/bin/sh\n"
GROUP = "root:x:0:\nweb:x:1001:\nextra:x:2000:other,web\n"


def make_root(path: Path) -> Path:
    """A folder that is a root file system once `USR` is mounted in it."""
    path.mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (path / name).symlink_to(f"usr/{name}")
    for name in ("usr", "etc", "tmp", "proc", "dev", "sys"):
        (path / name).mkdir()
    (path / "etc" / "passwd").write_text(PASSWD)
    (path / "etc" / "group").write_text(GROUP)
    return path
