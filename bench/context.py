"""What the rows share: folders, engines, bare runtimes and peers; made when first asked for, removed at the end."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, Self

import peers
from bare import Bare
from measure import Subject

from longshore.engine.engine import Engine
from longshore.errors import NotSupported
from longshore.oci.runtimes.choice import must_hide_unified

DISTRIBUTION_PYTHON = "/usr/bin/python3"
MILLI = 1000.0

P = ParamSpec("P")
Sample = Callable[[], Awaitable[float]]


def blocking(function: Callable[P, float], *args: P.args, **kwargs: P.kwargs) -> Sample:
    """A sample that a function measures, while nothing else runs in this program."""

    async def sample() -> float:
        return function(*args, **kwargs)

    return sample


def awaited(function: Callable[P, Awaitable[object]], *args: P.args, **kwargs: P.kwargs) -> Sample:
    """A sample that is how long a call takes, in milliseconds."""

    async def sample() -> float:
        begin = time.perf_counter()
        await function(*args, **kwargs)
        return (time.perf_counter() - begin) * MILLI

    return sample


def peer(engine: peers.Engine, what: str, function: Callable[P, float], *args: P.args, **kwargs: P.kwargs) -> Subject:
    """A subject of another engine, or why there is none."""
    sample = None if engine.why_not else blocking(function, *args, **kwargs)
    return Subject(f"{engine.name}{what}", sample, why_not=engine.why_not)


class Bench:
    """One run of the benchmark. `async with` it: whatever it made is gone at the end."""

    def __init__(self, *, quick: bool, runtimes: Sequence[str], with_peers: bool, alive: int) -> None:
        self.quick = quick
        self.alive = alive
        self._wanted = runtimes
        self._with_peers = with_peers
        self.work = Path(tempfile.mkdtemp(prefix="longshore-bench-"))
        self.runtimes: list[str] = []
        self._engines: dict[str, Engine] = {}
        self._bare: dict[str, Bare] = {}
        self._docker: peers.Docker | None = None
        self._podman: peers.Podman | None = None
        self._made_before = {path: path.exists() for path in peers.TRACES}

    async def __aenter__(self) -> Self:
        try:
            for name in self._wanted:
                engine = Engine(state=self.state(name), runtime=name)
                try:
                    await engine.__aenter__()
                    await engine.run("host", ["true"])  # probe, keeper and view of the machine: paid once, not measured
                except NotSupported as error:
                    print(f"{name}: {error}", file=sys.stderr)
                    await engine.close()
                    continue
                self.runtimes.append(name)
                self._engines[name] = engine
            if not self.runtimes:
                raise SystemExit("no runtime works here: see `longshore doctor`")
            self.python, self._python_path = self._interpreter()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()

    async def _close(self) -> None:
        for engine in self._engines.values():
            for info in await engine.list():
                await (await engine.get(info.id)).delete(force=True)
            await engine.close()
        for bare in self._bare.values():
            bare.close()
        for peer in (self._docker, self._podman):
            if peer is not None:
                peer.close()
        for path, before in self._made_before.items():
            if not before and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif not before:
                path.unlink(missing_ok=True)
        for name in self.runtimes:
            self._remove_store_cgroups(self.state(name))
        shutil.rmtree(self.work)

    @staticmethod
    def _remove_store_cgroups(state: Path) -> None:
        """The groups of the store itself outlive its containers: this store goes, so they go."""
        import msgspec

        id = msgspec.json.decode((state / "lib" / "store.json").read_bytes())["id"]
        for controller in Path("/sys/fs/cgroup").iterdir():
            top = controller / "longshore" / id
            for path, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):
                    os.rmdir(path)

    @property
    def preferred(self) -> str:
        """The runtime for rows in which it hardly matters."""
        return self.runtimes[0]

    def state(self, runtime: str) -> Path:
        return self.work / runtime

    def engine(self, runtime: str) -> Engine:
        return self._engines[runtime]

    def bare(self, runtime: str) -> Bare:
        if runtime not in self._bare:
            path = shutil.which(runtime) or runtime
            self._bare[runtime] = Bare(runtime, self.work / "bare" / runtime, hide_unified=must_hide_unified(path))
        return self._bare[runtime]

    @property
    def docker(self) -> peers.Engine:
        if not self._with_peers:
            return _left_out("docker")
        if self._docker is None:
            self._docker = peers.Docker(self.work / "docker")
        return self._docker

    @property
    def podman(self) -> peers.Engine:
        if not self._with_peers:
            return _left_out("podman")
        if self._podman is None:
            self._podman = peers.Podman(self.work / "podman")
        return self._podman

    @property
    def peers(self) -> list[peers.Engine]:
        return [self.docker, self.podman]

    def bwrap(self, args: Sequence[str]) -> Subject:
        """bubblewrap, running a command."""
        command = peers.bwrap(args) if self._with_peers else None
        if command is None:
            return Subject("bwrap", None, why_not="bubblewrap is not installed" if self._with_peers else "left out")
        return Subject("bwrap", blocking(peers.timed, command))

    def rounds(self, full: int) -> int:
        return min(full, 2) if self.quick else full

    # the command line

    def _interpreter(self) -> tuple[str, str]:
        """The distribution's python3, which is what most users have, where it can import longshore as it is here."""
        # nothing but what an installation has: a package of the tests may be imported by others if it is there
        path = str(self.work / "site")
        os.mkdir(path)
        for name in ("longshore", "msgspec"):
            package = Path(importlib.import_module(name).__file__ or "").parent
            os.symlink(package, f"{path}/{name}")
        for metadata in package.parent.glob("longshore-*.dist-info"):
            os.symlink(metadata, f"{path}/{metadata.name}")
        check = "import longshore.cli, msgspec"
        if os.path.exists(DISTRIBUTION_PYTHON):
            tried = subprocess.run(
                [DISTRIBUTION_PYTHON, "-c", check], env={**os.environ, "PYTHONPATH": path}, capture_output=True
            )
            if tried.returncode == 0:
                return DISTRIBUTION_PYTHON, path
            print(f"{DISTRIBUTION_PYTHON} cannot import longshore; using {sys.executable}", file=sys.stderr)
        return sys.executable, path

    def python_environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": self._python_path}

    def cli(self, runtime: str, *arguments: str, input: bytes | None = None) -> float:
        """Run the command line; milliseconds of the whole process."""
        script = self.work / "longshore"
        if not script.exists():  # as an installer writes it
            script.write_text(
                f"#!{self.python}\nimport sys\nfrom longshore.cli import main\n"
                'if __name__ == "__main__":\n    sys.exit(main())\n'
            )
            script.chmod(0o755)
        environment = self.python_environment()
        environment |= {"LONGSHORE_ROOT": str(self.state(runtime)), "LONGSHORE_RUNTIME": runtime}
        return peers.timed([str(script), *arguments], input=input, environment=environment)


def _left_out(name: str) -> peers.Engine:
    engine = peers.Engine(name)
    engine.why_not = "left out"
    return engine
