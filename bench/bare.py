"""The bare baseline: what a careful person would write by hand around the same runtime.

Bare gets what longshore would give the runtime: the bundle comes from longshore's own preparation, so that
config.json (seccomp and all) and the overlays are the same. What is counted of it:

- fresh scratch folders for the overlays (a used one cannot be mounted again), and their removal;
- a thread with a mount namespace of its own, the overlays' mount(2) calls in it, and, for crun on a host with a
  hybrid cgroup tree, a mount that covers the empty cgroup v2 which crun refuses to work beside;
- posix_spawn (a vfork: what this program weighs does not matter) of runtime or monitor, and waiting for it.

What is not counted, because a person with one fixed container would do it once: config.json, the folder of the
bundle, finding the runtime. Nothing is recorded, nothing is told, nothing dies with its owner, nothing is checked.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from longshore.compute.values import Place
from longshore.oci.bundle import prepare
from longshore.oci.config.translate import process as process_document
from longshore.oci.rootfs.layers import Step
from longshore.spec import ProcessSpec, Spec

CLONE_FS = 0x200
CLONE_NEWNS = 0x20000
MS_REC = 0x4000
MS_SLAVE = 0x80000
UNIFIED = "/sys/fs/cgroup/unified"
CGROUPS = Path("/sys/fs/cgroup")
PIPE_SIZE = 1 << 20  # a stream's pipe, as large as longshore's
CHUNK = 1 << 18
MILLI = 1000.0

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), fstype.encode(), ctypes.c_ulong(flags), os.fsencode(data) or None
    )
    _check(result, f"mount on {target}")


def spawn(
    argv: list[str],
    *,
    stdio: tuple[int, int, int],
    steps: Sequence[Step] = (),
    hide_unified: bool = False,
    environment: dict[str, str] | None = None,
) -> int:
    """Start a program; with `steps` or `hide_unified`, in a mount namespace of its own. Returns its pid."""
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)]
    env = {"PATH": os.environ["PATH"], **(environment or {})}
    if not steps and not hide_unified:
        return os.posix_spawn(argv[0], argv, env, file_actions=actions, setsid=True)
    result: list[int | BaseException] = []

    def work() -> None:
        try:
            _check(_libc.unshare(CLONE_FS | CLONE_NEWNS), "unshare")
            _mount("", "/", "", MS_REC | MS_SLAVE, "")
            if hide_unified:
                # covered, not unmounted: crun would make folders below it, on the host's own file system
                _mount("tmpfs", UNIFIED, "tmpfs", 0, "")
            for step in steps:
                if step.cwd:
                    os.chdir(step.cwd)  # this thread's own, since CLONE_FS
                _mount(step.source, step.target, step.fstype, step.flags, step.data)
            result.append(os.posix_spawn(argv[0], argv, env, file_actions=actions, setsid=True))
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def wait(pid: int) -> int:
    """Wait for a child; its exit code, 128 + n for signal n."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


@dataclass
class _File:
    """One file or folder of a scratch folder, as it was before the first mount."""

    path: str
    info: os.stat_result
    content: bytes = b""


@dataclass
class Bundle:
    """A bundle that longshore prepared, with scratch folders that can be made new again."""

    path: Path
    steps: Sequence[Step]
    scratch: list[str] = field(default_factory=list)
    files: list[_File] = field(default_factory=list)

    def __post_init__(self) -> None:
        for step in self.steps:
            options = dict(item.partition("=")[::2] for item in step.data.split(","))
            for name in ("upperdir", "workdir"):
                folder = options.get(name, "")
                if folder.startswith("/"):
                    self.scratch.append(folder)
                    self._remember(folder)

    def _remember(self, path: str) -> None:
        info = os.lstat(path)
        content = Path(path).read_bytes() if stat.S_ISREG(info.st_mode) else b""
        self.files.append(_File(path, info, content))
        if stat.S_ISDIR(info.st_mode):
            for name in sorted(os.listdir(path)):
                self._remember(f"{path}/{name}")

    def clear(self) -> None:
        """Remove the scratch folders."""
        for folder in self.scratch:
            shutil.rmtree(folder, ignore_errors=True)

    def fresh(self) -> None:
        """Make the scratch folders as they were."""
        for file in self.files:
            mode = stat.S_IMODE(file.info.st_mode)
            if stat.S_ISDIR(file.info.st_mode):
                os.mkdir(file.path, mode)
            elif stat.S_ISREG(file.info.st_mode):
                fd = os.open(file.path, os.O_WRONLY | os.O_CREAT, mode)
                os.write(fd, file.content)
                os.close(fd)
            else:
                os.mknod(file.path, file.info.st_mode, file.info.st_rdev)
            if file.info.st_uid or file.info.st_gid:
                os.chown(file.path, file.info.st_uid, file.info.st_gid)


def _leave_out_first(path: Path) -> None:
    """Have the runtime execute the command itself: a person's document has no first program."""
    config = json.loads(path.read_bytes())
    config["process"]["args"] = config["process"]["args"][2:]
    path.write_bytes(msgspec.json.encode(config))


class Bare:
    """One runtime, driven by hand. `close` removes everything."""

    def __init__(self, runtime: str, work: Path, *, hide_unified: bool) -> None:
        found = shutil.which(runtime)
        assert found is not None
        self.name = runtime
        self.path = found
        self.hide_unified = hide_unified
        self.conmon = shutil.which("conmon") or ""
        self.work = work
        self.root = work / "runtime"
        self.group = f"longshore-bench-{os.getpid()}-{runtime}"
        self.root.mkdir(parents=True)
        self._count = 0
        self._null = os.open(os.devnull, os.O_RDWR)

    def close(self) -> None:
        """End what a row that failed has left, and remove the cgroups; the files are the caller's."""
        os.close(self._null)
        tops = [controller / self.group for controller in CGROUPS.iterdir() if (controller / self.group).is_dir()]
        deadline = time.monotonic() + 10
        while tops and time.monotonic() < deadline:
            for top in tops:
                for path, _, _ in os.walk(top, topdown=False):
                    with suppress(OSError):
                        for pid in (Path(path) / "cgroup.procs").read_text().split():
                            os.kill(int(pid), signal.SIGKILL)
                    with suppress(OSError):
                        os.rmdir(path)
            tops = [top for top in tops if top.is_dir()]
            time.sleep(0.01)

    def bundle(self, spec: Spec) -> tuple[str, Bundle]:
        """An id, and a bundle for it, as longshore prepares it."""
        self._count += 1
        id = f"bare-{self.name}-{self._count}"
        files = self.work / "run" / "containers" / id
        files.mkdir(parents=True)
        place = Place(run=files, data=files)
        made = prepare(place, id, spec, cgroup_path=f"/{self.group}/{id}")
        if made.first:
            _leave_out_first(made.path / "config.json")
        bundle = Bundle(made.path, made.steps)
        bundle.clear()
        return id, bundle

    def command(self, *arguments: str) -> list[str]:
        return [self.path, "--root", str(self.root), *arguments]

    def verb(self, *arguments: str) -> None:
        """Run a verb to its end; RuntimeError if it fails."""
        null = self._null
        code = wait(spawn(self.command(*arguments), stdio=(null, null, null), hide_unified=self.hide_unified))
        if code != 0:
            raise RuntimeError(f"{self.name} {arguments[0]} ended with {code}")

    # what its caller waits for

    def run(self, id: str, bundle: Bundle) -> float:
        """`runtime run`, from no scratch folders to none, its output dropped. Milliseconds."""
        return self.run_with(id, bundle)[0]

    def run_with(
        self, id: str, bundle: Bundle, input: bytes | None = None, *, collect: bool = False
    ) -> tuple[float, bytes]:
        """The same with input, or with its output collected in one piece. Milliseconds, and the output."""
        begin = time.perf_counter()
        bundle.fresh()
        argv = self.command("run", "--bundle", str(bundle.path), id)
        output = self._piped(argv, bundle.steps, input, collect=collect)
        bundle.clear()
        return (time.perf_counter() - begin) * MILLI, output

    def exec(self, id: str, process: Path) -> float:
        """`runtime exec` with a document that was written before, its output dropped. Milliseconds."""
        return self.exec_with(id, process)[0]

    def exec_with(
        self, id: str, process: Path, input: bytes | None = None, *, collect: bool = False
    ) -> tuple[float, bytes]:
        """The same with input, or with its output collected in one piece. Milliseconds, and the output."""
        begin = time.perf_counter()
        output = self._piped(self.command("exec", "--process", str(process), id), (), input, collect=collect)
        return (time.perf_counter() - begin) * MILLI, output

    def _piped(self, argv: list[str], steps: Sequence[Step], input: bytes | None, *, collect: bool) -> bytes:
        """Run with pipes as longshore's: stdout and stderr read to their end, `input` fed by a thread."""
        read, write = _pipe()
        errors, errors_write = _pipe()
        stdin, feed = _pipe()  # not the null device: `crun exec` would give the machine's own to the container's user
        pid = spawn(argv, stdio=(stdin, write, errors_write), steps=steps, hide_unified=self.hide_unified)
        for fd in (stdin, write, errors_write):
            os.close(fd)
        feeder = None
        if input is None:
            os.close(feed)
        else:
            feeder = threading.Thread(target=_feed, args=(feed, input))
            feeder.start()
        output = bytearray()
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        while count := os.readv(read, [buffer]):
            if collect:
                output += view[:count]
        complaint = os.read(errors, 4096)
        os.close(read)
        os.close(errors)
        if feeder is not None:
            feeder.join()
        code = wait(pid)
        if code != 0 or complaint:
            raise RuntimeError(f"{argv[0]} ended with {code}: {complaint.decode(errors='replace')}")
        return bytes(output) if collect else b""

    # what stays: conmon

    def create(self, id: str, bundle: Bundle, *, stdin: bool = False, log_size: int = 64 << 20) -> Path:
        """A container with a monitor that writes its log; no code of it has run. Returns the folder of its files."""
        place = self.work / "kept" / id
        place.mkdir(parents=True)
        bundle.fresh()
        read, write = os.pipe()
        os.set_inheritable(write, True)
        argv = [self.conmon, "--api-version", "1", "--cid", id, "--cuuid", id, "--runtime", self.path]
        argv += ["--bundle", str(bundle.path), "--full-attach", "--exit-dir", str(place)]
        argv += ["--container-pidfile", str(place / "pid"), "--conmon-pidfile", str(place / "monitor")]
        argv += ["--log-path", f"k8s-file:{place / 'log'}", "--log-size-max", str(log_size), "--no-sync-log"]
        argv += ["--log-level", "error", "--runtime-arg=--root", f"--runtime-arg={self.root}"]
        if stdin:
            argv.append("--stdin")
        try:
            pid = spawn(
                argv,
                stdio=(self._null, self._null, self._null),
                steps=bundle.steps,
                hide_unified=self.hide_unified,
                environment={"_OCI_SYNCPIPE": str(write)},
            )
        finally:
            os.close(write)
        wait(pid)
        answer = json.loads(os.read(read, 65536))
        os.close(read)
        if answer["data"] <= 0:
            raise RuntimeError(f"conmon: {answer.get('message')}")
        return place

    def await_exit(self, id: str, place: Path) -> int:
        """Wait until the monitor has written the exit code, which is when it ends; returns the code."""
        with suppress(ProcessLookupError):
            fd = os.pidfd_open(int((place / "monitor").read_text()))
            select.select([fd], [], [])
            os.close(fd)
        return int((place / id).read_text())

    def remove(self, id: str, place: Path, bundle: Bundle, *, force: bool = False) -> None:
        """`runtime delete`, and the files."""
        self.verb("delete", *(["--force"] if force else []), id)
        if force:
            self.await_exit(id, place)  # the monitor writes into the folder until then
        shutil.rmtree(place)
        bundle.clear()

    def life(self, id: str, bundle: Bundle, *, log_size: int = 64 << 20) -> float:
        """Create, start, exit, delete. Milliseconds."""
        begin = time.perf_counter()
        place = self.create(id, bundle, log_size=log_size)
        self.verb("start", id)
        code = self.await_exit(id, place)
        self.remove(id, place, bundle)
        if code != 0:
            raise RuntimeError(f"{id} ended with {code}")
        return (time.perf_counter() - begin) * MILLI

    def process(self, bundle: Bundle, args: list[str]) -> Path:
        """A document for `exec --process`, as longshore writes it."""
        config = json.loads((bundle.path / "config.json").read_bytes())
        path = self.work / f"process-{len(list(self.work.iterdir()))}.json"
        path.write_bytes(msgspec.json.encode(process_document(config, ProcessSpec(args=args), None)))
        return path


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    with suppress(OSError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return read, write


def _feed(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:CHUNK]) :]
    os.close(fd)
