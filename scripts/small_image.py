"""Write a docker archive with one small image: a shell and a few programs of this machine, with their libraries.

    python3 scripts/small_image.py ARCHIVE NAME

For the quickstart, which needs an image where there may be no network. `longshore load` reads the archive.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PROGRAMS = ("sh", "cat", "ls", "uname")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def files() -> dict[str, Path]:
    """Return the files of the image, by their paths in it."""
    found: dict[str, Path] = {}
    for program in PROGRAMS:
        path = shutil.which(program)
        if path is None:
            raise SystemExit(f"there is no {program} on this machine")
        found[f"bin/{program}"] = Path(path)
        libraries = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        found |= {word.lstrip("/"): Path(word) for word in re.findall(r"/[^\s()]+", libraries)}
    return found


def layer() -> bytes:
    """Return the layer as a tar file."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, path in sorted(files().items()):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o755, path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(entry, file)
        greeting = b"hello from an image\n"
        entry = tarfile.TarInfo("greeting")
        entry.size = len(greeting)
        tar.addfile(entry, io.BytesIO(greeting))
    return data.getvalue()


def main(archive: str, name: str) -> None:
    """Write the archive."""
    content = layer()
    machine = platform.machine()
    config = {
        "os": "linux",
        "architecture": ARCHITECTURES.get(machine, machine),
        "config": {"Cmd": ["cat", "/greeting"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for member, data in (
            ("layer.tar", content),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    main(*sys.argv[1:])
