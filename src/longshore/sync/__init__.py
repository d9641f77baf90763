"""The blocking form of the asyncio API: the same names, parameters and errors, without `await`.

    with longshore.sync.Engine() as engine:
        done = engine.run("host", ["echo", "hi"])
        box = engine.launch("web-1", root="rootfs:/srv/web", args=["httpd"])
        for record in box.logs(follow=True): ...

An engine has a thread with an event loop of its own; so it works from any thread, also where a loop runs already
(notebooks). Any number of threads may use one engine at once. Ctrl-C in a call cancels it: it undoes what it did,
as its docstring says of "cancelled", and then KeyboardInterrupt is raised. Streams are binary files. An engine
left open is closed at the end of the program; in a forked child it raises EngineClosed.

Made by scripts/make_sync.py: do not edit. What is made by hand is in streams.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from ..compute.limits import USUAL
from ..compute.values import DEVNULL, LOG, PIPE
from ..engine import container as _container
from ..engine import engine as _engine
from ..engine import images as _images
from ..engine import output as _output
from ..engine import process as _process
from ..engine.archive import MAX_ARCHIVE
from ..engine.container import MAX_OUTPUT
from .streams import AHEAD, BlockingEngine, BlockingProxy, ClosingIterator, Reader, Writer

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime
    from typing import Any, BinaryIO, Self

    from ..compute.limits import Limits
    from ..compute.protocols import ComputeService
    from ..compute.values import Exit, Features, Plan, ProcessInfo, Stats
    from ..engine.checkpoints import CheckpointInfo
    from ..engine.container import Completed, ContainerInfo
    from ..engine.recovery import Restored
    from ..errors import LongshoreError
    from ..images.values import HistoryEntry, Image, Problem, Pruned, PullPolicy, PullProgress
    from ..logs.reader import LogGap, LogRecord, Stream
    from ..spec import Spec, SpecFields, SpecSettings
    from ..store.journal import Event, Gap
    from ..store.records import Owner


class Process(BlockingProxy[_process.Process]):
    """A process in a container: its streams, as in `asyncio.subprocess`, and its end."""

    @property
    def container_id(self) -> str:
        """The id of its container."""
        return self._inner.container_id

    @property
    def name(self) -> str:
        """Its name in the container; `init` for the first process."""
        return self._inner.name

    @property
    def args(self) -> list[str]:
        """Its command."""
        return self._inner.args

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""
        return self._inner.exit

    @property
    def pid(self) -> int:
        """The pid on this machine."""
        return self._inner.pid

    @property
    def stdin(self) -> Writer | None:
        """Its standard input; None if it is not a pipe of ours."""
        return self._writer(self._inner.stdin, self._inner.close_stdin)

    @property
    def stdout(self) -> Reader | None:
        """Its standard output; None if it is not a pipe of ours."""
        return self._reader("stdout", self._inner.stdout)

    @property
    def stderr(self) -> Reader | None:
        """Its standard error; None if it is not a pipe of ours, or goes with standard output."""
        return self._reader("stderr", self._inner.stderr)

    @property
    def returncode(self) -> int | None:
        """The exit code, 128 + n for signal n; None while it runs, or if nobody saw it."""
        return self._inner.returncode

    @property
    def failure(self) -> LongshoreError | None:
        """Why it never ran, where its exit record says `never_started`."""
        return self._inner.failure

    @property
    def unwritten(self) -> dict[str, OSError]:
        """Which of the descriptors that were given as its outputs did not take all, and why: a full disk. By the name
        of the stream, once `wait` has returned; the process had a broken pipe from then on.
        """
        return self._inner.unwritten

    def wait(self, *, timeout: float | None = None) -> Exit:
        """Wait for its end; any number of waiters get the same record. Cancelling only stops waiting.

        It waits until what was written has reached a descriptor that was given as a stream, but for no grandchild.

        Raises TimeLimit after `timeout` seconds; what was waited for goes on.
        """
        return self._call_limited(self._inner.wait(), timeout, self._inner._what())

    def communicate(
        self, input: bytes | None = None, *, timeout: float | None = None, max_output: int = MAX_OUTPUT
    ) -> tuple[bytes, bytes]:
        """Send `input` and the end of input, read both streams to their end, wait for the process.

        Raises TimeLimit after `timeout` seconds and OutputLimit when a stream grows past `max_output` bytes; the
        process is then killed, with what it started, and the error carries what was read. If it turns out that it
        never ran: CommandNotFound, or what else the reason was. Cancelled: not killed.
        """
        return self._communicate(self._inner.communicate(input, timeout=timeout, max_output=max_output))

    def signal(self, signal: str | int) -> None:
        """Deliver a signal: `"TERM"`, `15`. ProcessNotFound if it has ended (not for KILL)."""
        self._call(self._inner.signal(signal))

    def kill(self) -> None:
        """End it at once, and what it started; asked, not waited for. Already ended is fine."""
        self._call(self._inner.kill())

    def terminate(self) -> None:
        """Ask it to end, by TERM."""
        self._call(self._inner.terminate())

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal. InvalidState if it has none."""
        self._call(self._inner.resize(rows, columns))

    def close_stdin(self) -> None:
        """Give it the end of input; at a terminal, by the key that ends it (^D). Already ended is fine."""
        self._call(self._inner.close_stdin())


class Attachment(BlockingProxy[_output.Attachment]):
    """A view of a kept container's output from now (or its beginning) on, and perhaps its standard input.

    A slow reader stalls nobody: the output comes from the log. Where the log's bound has cost output, `gaps` says
    so, for each stream by its name. Closing it lets go; the container goes on.
    """

    @property
    def stdin(self) -> Writer | None:
        """Its standard input; None if there is none here."""
        return self._writer(self._inner.stdin)

    @property
    def stdout(self) -> Reader:
        """What it writes to standard output."""
        return self._open_reader("stdout", self._inner.stdout)

    @property
    def stderr(self) -> Reader:
        """What it writes to standard error."""
        return self._open_reader("stderr", self._inner.stderr)

    @property
    def gaps(self) -> dict[Stream, list[LogGap]]:
        """Where output was lost, or may have been, to the log's bound; for each stream by its name."""
        return self._inner.gaps

    def wait(self, *, timeout: float | None = None) -> Exit:
        """Wait for the container's end.

        Raises TimeLimit after `timeout` seconds; what was waited for goes on.
        """
        return self._call_limited(self._inner.wait(), timeout, f"container `{self._inner._container.id}`")

    def close(self) -> None:
        """Let go; the container goes on. Its input ends, unless it has a terminal."""
        self._call(self._inner.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Container(BlockingProxy[_container.Container]):
    """One container, known by its id. Many of these may stand for the same one, in many programs."""

    @property
    def id(self) -> str:
        """Its id."""
        return self._inner.id

    @property
    def init(self) -> Process | None:
        """Its first process, where this engine has started it or asked for it; else None: see `process`."""
        return None if self._inner.init is None else Process._of(self._loop, self._inner.init)

    def start(self, *, checkpoint: str | None = None) -> Process:
        """Run its init; what it writes goes to the log. InvalidState unless it is created.

        Failed or cancelled: what was started is ended, and the container is stopped.

        With `checkpoint`, a stopped container goes on from there, as often as one likes: InvalidState unless it is
        stopped, CheckpointNotFound, NotSupported. This is a next life of it, with an exit of its own; who else holds
        the earlier one has to `get` it again. Failed or cancelled: it is stopped, as it was.
        """
        return Process._of(self._loop, self._call(self._inner.start(checkpoint=checkpoint)))

    def checkpoint(self, name: str, *, leave_running: bool = False, connections: bool = False) -> CheckpointInfo:
        """Write its processes, and what it wrote to its root, to a checkpoint; then end it, unless left running.

        `connections`: open TCP connections are written, too; without it, a container that has some is refused.
        NotSupported, with the reason that `doctor` gives, before anything is touched; InvalidState unless it runs, made
        by `create`, with no exec in it; CheckpointExists. Failed or cancelled: it runs on, and there is no checkpoint.
        """
        return self._call(self._inner.checkpoint(name, leave_running=leave_running, connections=connections))

    def checkpoints(self) -> list[CheckpointInfo]:
        """Its checkpoints, oldest first."""
        return self._call(self._inner.checkpoints())

    def delete_checkpoint(self, name: str) -> None:
        """Remove one of its checkpoints. CheckpointNotFound."""
        self._call(self._inner.delete_checkpoint(name))

    def export_checkpoint(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write one of its checkpoints to a new file, for `Engine.import_checkpoint`. CheckpointNotFound."""
        self._call(self._inner.export_checkpoint(name, path))

    def info(self) -> ContainerInfo:
        """What a listing says of it, now."""
        return self._call(self._inner.info())

    def inspect(self) -> dict[str, Any]:
        """All that is known of it, as plain data; without the values of its environment."""
        return self._call(self._inner.inspect())

    def wait(self, *, timeout: float | None = None) -> Exit:
        """Wait for the end of init; any number of waiters, in any program. Cancelling only stops waiting.

        InvalidState if it was not started. ContainerNotFound if it is deleted before it is started.

        Raises TimeLimit after `timeout` seconds; what was waited for goes on.
        """
        return self._call_limited(self._inner.wait(), timeout, f"container `{self.id}`")

    def exec(
        self,
        args: Sequence[str] = (),
        *,
        command_line: str | None = None,
        name: str | None = None,
        stdin: int = DEVNULL,
        stdout: int = PIPE,
        stderr: int = PIPE,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        terminal: bool = False,
        size: tuple[int, int] | None = None,
        oci: Mapping[str, Any] | None = None,
    ) -> Process:
        """Start a further process, with streams of its own.

        `command_line` is Windows' way to give a command: one string, passed as it is. `env` adds to the container's
        environment; `cwd` and `user` fall back to the container's. `timeout` seconds after its start it is killed,
        with its children and its session; its record then says `time_limit`. It ends with this engine, however that
        ends. Raises InvalidState unless running, CommandNotFound, CommandNotExecutable, ProcessExists. Cancelled:
        nothing of it runs.

        `oci` is the `process` of an OCI runtime specification, in the place of the container's own: then nothing but
        an empty working directory is taken from there, and what is said beside it counts more.
        """
        return Process._of(
            self._loop,
            self._call(
                self._inner.exec(
                    args,
                    command_line=command_line,
                    name=name,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    timeout=timeout,
                    env=env,
                    cwd=cwd,
                    user=user,
                    terminal=terminal,
                    size=size,
                    oci=oci,
                )
            ),
        )

    def run(
        self,
        args: Sequence[str],
        *,
        input: bytes | None = None,
        timeout: float | None = None,
        check: bool = False,
        max_output: int = MAX_OUTPUT,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> Completed:
        """Run a further command to its end and collect what it writes: `exec`, `communicate` and `wait` in one.

        Like `subprocess.run`: `input` goes to its standard input (without it there is none); after `timeout` seconds
        it is killed and TimeLimit raised with what there was; `check` raises CommandFailed unless it ended with 0;
        `max_output` bounds each stream in bytes (OutputLimit). `env` adds to the container's environment; `cwd` and
        `user` fall back to the container's. Raises what `exec` raises. Cancelled: it is killed, with what it started.
        """
        return self._call(
            self._inner.run(
                args, input=input, timeout=timeout, check=check, max_output=max_output, env=env, cwd=cwd, user=user
            )
        )

    def process(self, name: str) -> Process:
        """A process by its name, also one that another program started (its streams are that program's)."""
        return Process._of(self._loop, self._call(self._inner.process(name)))

    def processes(self) -> list[str]:
        """Names of the execs that run here, or ran with a name of their own."""
        return self._call(self._inner.processes())

    def logs(
        self, *, follow: bool = False, tail: int | None = None, since: datetime | None = None, pieces: bool = False
    ) -> ClosingIterator[LogRecord | LogGap]:
        """What it wrote, line by line, from its log. With `follow`, until it has ended. `tail`: the last n lines.

        A record is one line of one stream, and lines come in the order of their ends. The last line of a stream has
        no newline if the program wrote none; it comes at the end, which with `follow` is that of the container. A line
        of more than 1 MiB comes in parts of that size, and a LogGap cuts a line in two. With `pieces` a record is what
        the program wrote at once, as soon as it is there: that may be a part of a line, as a prompt is.

        InvalidState if it has no log, because it runs for its caller.
        """
        return self._iterate(self._inner.logs(follow=follow, tail=tail, since=since, pieces=pieces), ahead=AHEAD)

    def attach(self, *, stdin: bool = False, logs: bool = False) -> Attachment:
        """Its streams from now on (with `logs`: from the first byte on), and its standard input if asked for."""
        return Attachment._of(self._loop, self._call(self._inner.attach(stdin=stdin, logs=logs)))

    def signal(self, signal: str | int) -> None:
        """Deliver a signal to init. InvalidState unless it runs. Where there are no signals, KILL kills and any
        other asks the container to shut down.
        """
        self._call(self._inner.signal(signal))

    def kill(self) -> None:
        """End it at once, also when paused or not started; asked, not waited for.

        Already ended is fine: the caller has what it wanted. (The command `longshore kill` calls that an error, as
        people know it from docker.)
        """
        self._call(self._inner.kill())

    def stop(self, grace: float = 10, signal: str | int | None = None) -> Exit:
        """Ask it to end (its stop signal, or `signal`), and kill it after `grace` seconds. Returns how it ended.

        If init cannot receive the signal at all, it is killed at once. Cancelled in the grace: the signal is sent
        and the container runs on.
        """
        return self._call(self._inner.stop(grace, signal))

    def pause(self) -> None:
        """Freeze it. InvalidState unless running. Cancelled: resumed."""
        self._call(self._inner.pause())

    def resume(self) -> None:
        """Let it go on. InvalidState unless paused. Cancelled: it may go on, and is then told of."""
        self._call(self._inner.resume())

    def stats(self) -> Stats:
        """What it uses now. InvalidState unless it runs."""
        return self._call(self._inner.stats())

    def watch_stats(self, interval: float = 1.0) -> ClosingIterator[Stats]:
        """What it uses, every `interval` seconds, until it ends."""
        return self._iterate(self._inner.watch_stats(interval))

    def top(self) -> list[ProcessInfo]:
        """The processes that run in it."""
        return self._call(self._inner.top())

    def pids(self) -> list[int]:
        """Their pids on this machine."""
        return self._call(self._inner.pids())

    def update(
        self,
        *,
        memory: int | str | None = None,
        memory_swap: int | str | None = None,
        memory_reservation: int | str | None = None,
        cpus: float | None = None,
        cpu_weight: int | None = None,
        cpuset: str | None = None,
        pids: int | None = None,
        add_endpoints: Sequence[str] = (),
        remove_endpoints: Sequence[str] = (),
    ) -> None:
        """Change its limits while it lives; None leaves one as it is. `inspect` then shows the new ones.

        In the words and units of `Resources`. Cancelled: done, or not done. On Windows, limits cannot be changed, but
        network endpoints (by their ids) can be added and removed; what is NotSupported is refused before anything else
        is tried.
        """
        self._call(
            self._inner.update(
                memory=memory,
                memory_swap=memory_swap,
                memory_reservation=memory_reservation,
                cpus=cpus,
                cpu_weight=cpu_weight,
                cpuset=cpuset,
                pids=pids,
                add_endpoints=add_endpoints,
                remove_endpoints=remove_endpoints,
            )
        )

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of init's terminal."""
        self._call(self._inner.resize(rows, columns))

    def delete(self, *, force: bool = False) -> None:
        """Remove it and all that it has. InvalidState if it runs, unless `force`: then it is killed first.

        Once begun it completes, also when cancelled. Deleted already is fine.
        """
        self._call(self._inner.delete(force=force))


class Images(BlockingProxy[_images.Images]):
    """The images on this machine: `engine.images`. They are in the state directory, for all engines that use it."""

    def pull(
        self,
        name: str,
        *,
        platform: str | None = None,
        policy: PullPolicy = "always",
        credentials: tuple[str, str] | None = None,
        insecure: bool = False,
        progress: Callable[[PullProgress], None] | None = None,
    ) -> Image:
        """Fetch an image from its registry, as far as it is not here.

        `platform` (None: this machine's) is `OS/ARCH[/VARIANT]`. `policy` says when the registry is asked: `always`;
        `missing`, if the image is not here; `newer`, always, but one that cannot be reached is no error if the image is
        here; `never`. `credentials` are user and password (None: those of `longshore login`, podman and docker).
        `insecure` takes a registry without TLS, or with a certificate of no known authority. `progress` is called in
        the event loop with how far each layer is.

        Raises: ImageNotFound; PlatformNotFound; RegistryAuthError, RegistryUnreachable, RegistryError; InvalidImage;
        NotSupported; InvalidSpec; StoreError.
        If cancelled: nothing of it is in use; the next pull goes on with what was received.
        """
        return self._call(
            self._inner.pull(
                name, platform=platform, policy=policy, credentials=credentials, insecure=insecure, progress=progress
            )
        )

    def push(
        self,
        name: str,
        *,
        credentials: tuple[str, str] | None = None,
        insecure: bool = False,
        progress: Callable[[PullProgress], None] | None = None,
    ) -> str:
        """Have the registry of a name have the image of this name, byte for byte; `tag` gives an image such a name.

        A name that stands for several platforms is pushed as that if the images of all are here; else the one for this
        machine is. The keywords are as for `pull`. Returns the digest that the registry has under the name now.

        Raises: ImageNotFound; RegistryAuthError, RegistryUnreachable, RegistryError; InvalidImage; InvalidSpec.
        If cancelled: the name at the registry is as it was.
        """
        return self._call(self._inner.push(name, credentials=credentials, insecure=insecure, progress=progress))

    def get(self, name: str, *, platform: str | None = None) -> Image:
        """Return the image of a name, a digest, an id, or the beginning of an id of at least 12 digits.

        A name means exactly itself (with `latest` where it has no tag). Where it stands for several platforms, the
        image is the one for `platform` (None: this machine's, or else whichever is here).
        Raises: ImageNotFound; PlatformNotFound; InvalidSpec.
        """
        return self._call(self._inner.get(name, platform=platform))

    def exists(self, name: str) -> bool:
        """Return whether `get` would find an image. Raises: InvalidSpec."""
        return self._call(self._inner.exists(name))

    def tag(self, source: str, name: str) -> None:
        """Give an image a further name: `source` is what `get` takes. What had the name before loses it.

        Raises: ImageNotFound; InvalidSpec; StoreError.
        """
        self._call(self._inner.tag(source, name))

    def remove(self, name: str, *, force: bool = False) -> list[str]:
        """Take a name away; and the image, if that was its last one and no container uses it.

        An id or a digest means the image with all its names: with more than one, only by `force`. What containers use
        stays until they are gone. Returns what went: the names, then the digests of images.
        Raises: ImageNotFound; InvalidSpec; StoreError.
        """
        return self._call(self._inner.remove(name, force=force))

    def prune(
        self,
        *,
        all: bool = False,
        blobs: bool = False,
        until: datetime | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Pruned:
        """Remove images without a name that no container uses; with `all`, those with a name, too.

        With them goes what nothing needs any more, and what pulls that were killed have left. `until` spares images
        that were added later; `labels`, those without all of these. With `blobs`, the compressed layers of all images
        go as well: a push then needs a registry that has them.
        Raises: StoreError.
        """
        return self._call(self._inner.prune(all=all, blobs=blobs, until=until, labels=labels))

    def load(
        self, source: str | os.PathLike[str] | BinaryIO, *, progress: Callable[[PullProgress], None] | None = None
    ) -> Sequence[Image]:
        """Add the images of an archive, with the names that it gives them.

        That is an OCI layout, as a folder or a tar file, or what `docker save` and `podman save` write; also compressed
        by gzip, zstd, xz or bzip2. An open file may be a pipe. Of an index, all images that are there are added.
        Raises: InvalidImage; InvalidSpec if there is no such file; NotSupported; StoreError.
        If cancelled: what was loaded so far has no name, and the next `prune` removes it.
        """
        return self._call(self._inner.load(source, progress=progress))

    def save(self, names: Sequence[str], target: str | os.PathLike[str] | BinaryIO) -> None:
        """Write images to one tar file: an OCI layout that docker's and podman's `load` read, too.

        What is in it is byte for byte what was pulled. The file has its name when it is whole. A name that stands for
        several platforms is written as that if the images of all are here; else the one for this machine is.
        Raises: ImageNotFound; InvalidSpec; StoreError. If cancelled: there is no file.
        """
        self._call(self._inner.save(names, target))

    def verify(self, name: str | None = None, *, repair: bool = False) -> Sequence[Problem]:
        """Check what the store holds against its digests, of one image or of all; return what is wrong.

        That reads and unpacks all of it, so it takes as long as pulling from a fast registry. With `repair`, a damaged
        blob is removed, so that the next pull fetches it; a damaged layer is made again, unless a container uses it.
        Raises: ImageNotFound; InvalidSpec; NotSupported on Windows; StoreError.
        If cancelled: it ends after the present piece; what was repaired stays so.
        """
        return self._call(self._inner.verify(name, repair=repair))

    def history(self, name: str) -> Sequence[HistoryEntry]:
        """Return the steps in the making of an image, as far as it tells them, the first one first.

        Raises: ImageNotFound; InvalidSpec; StoreError.
        """
        return self._call(self._inner.history(name))

    def list(self) -> Sequence[Image]:
        """Return all images of this machine, one entry for each, the youngest first."""
        return self._call(self._inner.list())


class Engine(BlockingEngine):
    """Finds, creates and lists the containers of this machine. `with` it, or `close` it.

    `service` is the compute service (None: this machine's); `state` the state directory (None: $LONGSHORE_ROOT,
    else the machine's own); `runtime` is for Linux: `crun`, `runc` or a path (None: $LONGSHORE_RUNTIME, else the
    first that works); `limits` says how long each step may take before it counts as failed.

    Leaving it kills what `run` and `exec` started here, does to each container what its owner setting says, and
    ends what still waits with EngineClosed. It must not be used in a forked child.
    """

    def __init__(
        self,
        service: ComputeService | None = None,
        *,
        state: str | os.PathLike[str] | None = None,
        runtime: str | None = None,
        limits: Limits = USUAL,
    ) -> None:
        super().__init__(_engine.Engine(service, state=state, runtime=runtime, limits=limits))

    @property
    def images(self) -> Images:
        """The images on this machine."""
        return Images._of(self._loop, self._inner.images)

    def close(self, grace: float = 10) -> None:
        """End what is this engine's to end, within `grace` seconds of asking; shielded, idempotent."""
        self._close(grace)

    def create(
        self,
        id: str,
        spec: Spec | None = None,
        *,
        owner: Owner = "keep",
        stdin: int = DEVNULL,
        pull: PullPolicy = "missing",
        platform: str | None = None,
        entrypoint: Sequence[str] | None = None,
        **fields: Unpack[SpecFields],
    ) -> Container:
        """Make a container; no code of it has run. What it will write goes to its log.

        `owner` says what becomes of it when this engine ends: `keep`, `stop` or `remove`. With `stdin=PIPE` it has
        an input that `attach` reaches. Raises ContainerExists, InvalidSpec, CommandNotFound; failed or cancelled:
        nothing of it is left and the id is free.

        The other keywords are the fields of `Spec`, which `help(longshore.Spec)` lists: `root`, `args`, `env`,
        `memory`, `mounts`, ... They are laid over `spec`, where one is given.

        Where the root is an image, `pull` says when its registry is asked, as for `images.pull`; `platform` is
        `OS/ARCH[/VARIANT]`, if not this machine's; `entrypoint` replaces the image's own, and its command. Then
        ImageNotFound, PlatformNotFound and RegistryError may be raised, too.
        """
        return Container._of(
            self._loop,
            self._call(
                self._inner.create(
                    id, spec, owner=owner, stdin=stdin, pull=pull, platform=platform, entrypoint=entrypoint, **fields
                )
            ),
        )

    def launch(
        self,
        id: str,
        spec: Spec | None = None,
        *,
        owner: Owner = "keep",
        stdin: int = DEVNULL,
        stdout: int = LOG,
        stderr: int = LOG,
        pull: PullPolicy = "missing",
        platform: str | None = None,
        entrypoint: Sequence[str] | None = None,
        **fields: Unpack[SpecFields],
    ) -> Container:
        """Create and start. With streams other than LOG it runs for its caller: they are `container.init`'s.

        A stream is PIPE, DEVNULL, INHERIT or a file descriptor; `stderr` may be STDOUT, too. Either both outputs go
        to the log, or neither. The other keywords are as for `create`.
        """
        return Container._of(
            self._loop,
            self._call(
                self._inner.launch(
                    id,
                    spec,
                    owner=owner,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    pull=pull,
                    platform=platform,
                    entrypoint=entrypoint,
                    **fields,
                )
            ),
        )

    def run(
        self,
        root: str | os.PathLike[str],
        args: Sequence[str] = (),
        *,
        input: bytes | None = None,
        stdin: int = DEVNULL,
        stdout: int = PIPE,
        stderr: int = PIPE,
        timeout: float | None = None,
        check: bool = False,
        max_output: int = MAX_OUTPUT,
        name: str | None = None,
        pull: PullPolicy = "missing",
        platform: str | None = None,
        entrypoint: Sequence[str] | None = None,
        **fields: Unpack[SpecSettings],
    ) -> Completed:
        """Run a command in a container of its own, collect what it writes, remove the container.

        Like `subprocess.run`: `input` goes to its standard input; after `timeout` seconds it is killed and TimeLimit
        raised with what there was; `check` raises CommandFailed unless it ended with 0; `max_output` bounds each
        stream (OutputLimit). Cancelled, or when this program dies: the container is killed and removed.

        What came of the command is returned also if the container cannot be removed then: that is a warning in the log
        of `longshore.engine.engine`, and tried again when the engine is closed.

        Where `root` is an image, it may have a command of its own: then `args` may be left out, and otherwise take the
        place of its default ones. `pull`, `platform` and `entrypoint` are as for `create`; `timeout` counts from when
        the image is here.

        The other keywords are the fields of `Spec`, which `help(longshore.Spec)` lists: `env`, `cwd`, `user`,
        `memory`, `cpus`, `pids`, `mounts`, `network`, ...
        """
        return self._call(
            self._inner.run(
                root,
                args,
                input=input,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                timeout=timeout,
                check=check,
                max_output=max_output,
                name=name,
                pull=pull,
                platform=platform,
                entrypoint=entrypoint,
                **fields,
            )
        )

    def import_checkpoint(
        self, path: str | os.PathLike[str], id: str | None = None, *, owner: Owner = "keep", max_size: int = MAX_ARCHIVE
    ) -> Container:
        """Make a container of an exported checkpoint: stopped, and with that checkpoint, to be started from it.

        `id` is that of the container which was exported, unless given. InvalidSpec for a file that is no such archive,
        or holds more than `max_size` bytes; ContainerExists, NotSupported. An archive is a program with all the rights
        that it says it has: import what you trust.
        """
        return Container._of(
            self._loop, self._call(self._inner.import_checkpoint(path, id, owner=owner, max_size=max_size))
        )

    def get(self, id: str) -> Container:
        """The container of this id, also one that another program made. ContainerNotFound.

        Of one whose record is damaged, all that can be done is `delete(force=True)`.
        """
        return Container._of(self._loop, self._call(self._inner.get(id)))

    def list(
        self, *, labels: Mapping[str, str] | None = None, states: Collection[str] | None = None
    ) -> list[ContainerInfo]:
        """All containers, oldest first; only those with all of `labels` and one of `states` where given.

        Reads the store; asks no runtime.
        """
        return self._call(self._inner.list(labels=labels, states=states))

    def events(
        self, *, since: int | None = None, follow: bool = True, container: str | None = None
    ) -> ClosingIterator[Event | Gap]:
        """What happens to containers, in order, each once: from now on, or after the event numbered `since`.

        `since=0` begins with the oldest there is. Without `follow`, ends at the last there is. A Gap tells of events
        that are not known any more. Whoever handles an event may call the engine.
        """
        return self._iterate(self._inner.events(since=since, follow=follow, container=container), ahead=AHEAD)

    def restore(self) -> Restored:
        """Take up all containers again: watch those that run, record how others ended, undo half-made ones.

        Every call does so by itself for the container that it is about.
        """
        return self._call(self._inner.restore())

    def version(self) -> dict[str, str]:
        """Versions of longshore and of the parts that do the work."""
        return self._call(self._inner.version())

    def features(self) -> Features:
        """What works on this host, and why the rest does not."""
        return self._call(self._inner.features())

    def plan(
        self,
        spec: Spec | None = None,
        *,
        id: str = "example",
        platform: str | None = None,
        entrypoint: Sequence[str] | None = None,
        **fields: Unpack[SpecFields],
    ) -> Plan:
        """What `create` or `run` would do: documents, mounts, command lines, defaults with their reasons.

        Nothing is pulled: of an image that is not here, ImageNotFound says so.
        """
        return self._call(self._inner.plan(spec, id=id, platform=platform, entrypoint=entrypoint, **fields))


def run(
    root: str | os.PathLike[str],
    args: Sequence[str] = (),
    *,
    input: bytes | None = None,
    stdin: int = DEVNULL,
    stdout: int = PIPE,
    stderr: int = PIPE,
    timeout: float | None = None,
    check: bool = False,
    max_output: int = MAX_OUTPUT,
    name: str | None = None,
    pull: PullPolicy = "missing",
    platform: str | None = None,
    entrypoint: Sequence[str] | None = None,
    service: ComputeService | None = None,
    state: str | os.PathLike[str] | None = None,
    runtime: str | None = None,
    limits: Limits = USUAL,
    **fields: Unpack[SpecSettings],
) -> Completed:
    """Run a command in a container of its own, collect what it writes, remove the container.

    Like `subprocess.run`: `input` goes to its standard input; after `timeout` seconds it is killed and TimeLimit
    raised with what there was; `check` raises CommandFailed unless it ended with 0; `max_output` bounds each
    stream (OutputLimit). Cancelled, or when this program dies: the container is killed and removed.

    What came of the command is returned also if the container cannot be removed then: that is a warning in the log
    of `longshore.engine.engine`, and tried again when the engine is closed.

    Where `root` is an image, it may have a command of its own: then `args` may be left out, and otherwise take the
    place of its default ones. `pull`, `platform` and `entrypoint` are as for `create`; `timeout` counts from when
    the image is here.

    The other keywords are the fields of `Spec`, which `help(longshore.Spec)` lists: `env`, `cwd`, `user`,
    `memory`, `cpus`, `pids`, `mounts`, `network`, ...

    This is `Engine.run` in an engine of its own, which `service`, `state` and `runtime` are for; to run
    many, open one Engine. It blocks, and works where an event loop runs already. Ctrl-C is the cancelling.
    """
    with Engine(service, state=state, runtime=runtime, limits=limits) as engine:
        return engine.run(
            root,
            args,
            input=input,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            timeout=timeout,
            check=check,
            max_output=max_output,
            name=name,
            pull=pull,
            platform=platform,
            entrypoint=entrypoint,
            **fields,
        )


__all__ = ["Attachment", "ClosingIterator", "Container", "Engine", "Images", "Process", "Reader", "Writer", "run"]
