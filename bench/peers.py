"""The engines that people use today, driven by their command lines. Each is optional.

dockerd is started on a socket and folders of its own, without iptables and bridge, and is stopped at the end.
Docker's and podman's image is made here, of a static busybox: nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from longshore.oci.runtimes.choice import must_hide_unified

IMAGE = "longshore-bench:latest"
START_LIMIT = 60.0  # seconds for a daemon to answer
BINARIES = "/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin:/usr/local/sbin"  # the distribution's before others
APPLETS = ("sh", "true", "cat", "dd", "sleep", "head")
MILLI = 1000.0

# what the peers leave on a machine that had no such thing before
TRACES = tuple(
    map(
        Path,
        (
            "/var/lib/containers/cache",
            "/run/containerd",
            "/run/docker",
            "/run/libpod",
            "/dev/shm/libpod_lock",
            "/run/crun",
            "/run/runc",
        ),
    )
)


def find(name: str) -> str | None:
    return shutil.which(name, path=BINARIES)


def call(argv: Sequence[str], *, input: bytes | None = None, environment: dict[str, str] | None = None) -> bytes:
    """Run a command to its end; its output. RuntimeError with its complaint if it fails."""
    done = subprocess.run(argv, input=input or b"", capture_output=True, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(argv)[:200]}` ended with {done.returncode}: {done.stderr.decode()[-400:]}")
    return done.stdout


def timed(
    argv: Sequence[str],
    *,
    input: bytes | None = None,
    environment: dict[str, str] | None = None,
) -> float:
    """Milliseconds from the start of a command to its end; its output is dropped as it comes, with `input` kept."""
    begin = time.perf_counter()
    if input is not None:
        call(argv, input=input, environment=environment)
        return (time.perf_counter() - begin) * MILLI
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stderr is not None
    buffer = bytearray(1 << 18)
    while os.readv(process.stdout.fileno(), [buffer]):
        pass
    complaint = process.stderr.read()
    code = process.wait()
    seconds = time.perf_counter() - begin
    process.stdout.close()
    process.stderr.close()
    if code != 0:
        raise RuntimeError(f"`{' '.join(argv)[:200]}` ended with {code}: {complaint.decode()[-400:]}")
    return seconds * MILLI


def _image(work: Path) -> Path:
    """A root file system of one static busybox, as a tar archive. RuntimeError where there is none."""
    busybox = find("busybox")
    if (
        busybox is None
        or shutil.which("ldd") is None
        or subprocess.run(["ldd", busybox], capture_output=True).returncode == 0
    ):
        raise RuntimeError("busybox-static is not installed")
    archive = work / "image.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        tar.add(os.path.realpath(busybox), "bin/busybox")
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return archive


class Engine:
    """An engine with docker's command line. `why_not` says why it cannot be measured here; empty if it can."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.why_not = ""
        self.command: list[str] = []
        self.options: list[str] = ["--network", "none"]

    def run(self, args: Sequence[str], *, interactive: bool = False) -> list[str]:
        """The command line of run-and-remove."""
        flag = ["-i"] if interactive else []
        return [*self.command, "run", "--rm", *flag, *self.options, IMAGE, *args]

    def create(self, name: str, args: Sequence[str]) -> list[str]:
        return [*self.command, "create", "--name", name, *self.options, IMAGE, *args]

    def verb(self, *args: str) -> list[str]:
        return [*self.command, *args]

    def exec(self, name: str, args: Sequence[str], *, interactive: bool = False) -> list[str]:
        flag = ["-i"] if interactive else []
        return [*self.command, "exec", *flag, name, *args]

    def life(self, name: str, args: Sequence[str]) -> float:
        """Create, start, wait, remove: four commands. Milliseconds."""
        begin = time.perf_counter()
        call(self.create(name, args))
        call(self.verb("start", name))
        call(self.verb("wait", name))
        call(self.verb("rm", name))
        return (time.perf_counter() - begin) * MILLI

    def keep(self, name: str, args: Sequence[str]) -> None:
        """A container that stays up."""
        call(self.create(name, args))
        call(self.verb("start", name))

    def remove(self, name: str) -> None:
        call(self.verb("rm", "-f", name))

    def monitors(self) -> list[int]:
        """Pids of the processes that stay beside containers, and of no daemon."""
        raise NotImplementedError

    def daemons(self) -> list[int]:
        """Pids of what must run for any container to be."""
        return []

    def close(self) -> None:
        """End what runs for it."""


class Docker(Engine):
    """Docker, with a daemon of its own."""

    def __init__(self, work: Path) -> None:
        super().__init__("docker")
        self._daemon: subprocess.Popen[bytes] | None = None
        self._work = work
        docker, dockerd = find("docker"), find("dockerd")
        if docker is None or dockerd is None:
            self.why_not = "docker.io is not installed"
            return
        socket = f"unix://{work}/socket"
        self.command = [docker, "-H", socket]
        try:
            work.mkdir(parents=True)
            with (work / "log").open("wb") as log:
                own = ["--data-root", f"{work}/data", "--exec-root", f"{work}/exec", "--pidfile", f"{work}/pid"]
                self._daemon = subprocess.Popen(
                    [dockerd, "-H", socket, *own, "--iptables=false", "--bridge=none"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            deadline = time.monotonic() + START_LIMIT
            while subprocess.run([*self.command, "version"], capture_output=True).returncode != 0:
                if self._daemon.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"dockerd did not start: {(work / 'log').read_text()[-300:]}")
                time.sleep(0.2)
            call([*self.command, "import", str(_image(work)), IMAGE])
        except (OSError, RuntimeError) as error:
            self.close()
            self.why_not = str(error)

    def daemons(self) -> list[int]:
        """dockerd and its containerd."""
        if self._daemon is None:
            return []
        return [self._daemon.pid, *_children(self._daemon.pid)]

    def monitors(self) -> list[int]:
        return _running("containerd-shim-runc-v2", self._work)

    def close(self) -> None:
        if self._daemon is not None:
            self._daemon.send_signal(signal.SIGTERM)
            try:
                self._daemon.wait(30)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
            self._daemon = None
        _unmount_below(self._work)
        _remove_cgroup("docker")


class Podman(Engine):
    """Podman, with storage of its own."""

    def __init__(self, work: Path) -> None:
        super().__init__("podman")
        self._work = work
        podman = find("podman")
        if podman is None:
            self.why_not = "podman is not installed"
            return
        self.command = [podman, "--root", f"{work}/root", "--runroot", f"{work}/run", "--tmpdir", f"{work}/tmp"]
        self.command += ["--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        if must_hide_unified("crun"):
            self.command += ["--runtime", "runc"]  # crun, podman's default, refuses hybrid hosts
        # a host without CAP_SYS_RESOURCE refuses podman's default of raising limits
        self.options += ["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=4096:4096"]
        try:
            work.mkdir(parents=True)
            call([*self.command, "import", str(_image(work)), IMAGE])
            call(self.run(["true"]))
        except (OSError, RuntimeError) as error:
            self.close()
            self.why_not = str(error)

    def monitors(self) -> list[int]:
        return _running("conmon", self._work)

    def close(self) -> None:
        if self.command:
            subprocess.run([*self.command, "rm", "-af"], capture_output=True)
        _unmount_below(self._work)
        _remove_cgroup("libpod_parent")


def bwrap(args: Sequence[str]) -> list[str] | None:
    """bubblewrap's nearest thing: namespaces and a read-only view of the machine. None where it is not installed."""
    found = find("bwrap")
    if found is None:
        return None
    return [found, "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", *args]


def _running(program: str, work: Path) -> list[int]:
    """Pids of a program's processes that have a folder of ours in their command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            command = _command(int(name))
            if os.path.basename(command[0] if command else "") == program and str(work) in " ".join(command):
                found.append(int(name))
    return found


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    """Children of a process, whichever of its threads started them."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found += [int(text) for text in (task / "children").read_text().split()]
    return found


def _unmount_below(folder: Path) -> None:
    """Take away what an engine left mounted in its own folders."""
    found = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for path in reversed([path for path in found if path.startswith(f"{folder}/")]):
        subprocess.run(["umount", "-l", path], capture_output=True)


def _remove_cgroup(name: str) -> None:
    """Remove an engine's parent cgroups, if nothing is in them."""
    for controller in Path("/sys/fs/cgroup").iterdir():
        for path, _, _ in os.walk(controller / name, topdown=False):
            with suppress(OSError):
                os.rmdir(path)
