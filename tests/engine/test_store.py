"""The state directory and the journal, by themselves: what is true at every moment, and what it costs."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

import longshore
from longshore.compute.events import Event, Gap
from longshore.compute.values import Owner, now
from longshore.errors import ContainerExists, ContainerNotFound, InvalidSpec, InvalidState, StoreError
from longshore.exit_record import Cause, Exit
from longshore.fs.files import hold, link_once, short_lock, try_hold, wait_for_lock, write_new
from longshore.fs.trees import remove_some, remove_tree
from longshore.spec import ProcessSpec, Spec
from longshore.store import journal as journal_module
from longshore.store.container_dir import ContainerDir
from longshore.store.journal import Journal, JournalReader, NewEvent, Position
from longshore.store.records import Damaged, ExitRecord, Record, decode
from longshore.store.state_directory import Store

from .world import FOREVER, World

OTHERS: Any = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
"""How other programs are started: the quickest way there is."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.at(tmp_path / "state")
    made.open()
    return made


def make(store: Store, id: str = "box", *, durable: bool = True) -> tuple[ContainerDir, Record]:
    entry, claim = store.reserve(id, durable=durable)
    record = store.new_record(id, Spec.of(args=["true"]), "keep", None, kept=durable, durable=durable, stdin=False)
    record.token = b"x"
    entry.write(record)
    claim.release()
    return entry, record


def test_a_relative_state_is_meant_from_here_but_not_in_the_environment_which_others_inherit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store.at("state").data == tmp_path / "state" / "lib"
    monkeypatch.setenv("LONGSHORE_ROOT", "state")
    for make in (lambda: Store.at(None), longshore.Engine, longshore.sync.Engine):
        with pytest.raises(InvalidSpec) as caught:
            make()
        assert (caught.value.field, caught.value.hint) == (
            "LONGSHORE_ROOT",
            f"write LONGSHORE_ROOT={tmp_path / 'state'}",
        )
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("LONGSHORE_ROOT", str(tmp_path / "state"))
    assert Store.at(None).data == tmp_path / "state" / "lib"


def test_store_that_another_program_makes_at_the_same_moment_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, store = Store.at(tmp_path / "state"), Store.at(tmp_path / "state")
    listdir = os.listdir

    def list_late(path: Any) -> Any:
        if os.fspath(path) == str(store.data) and not other.id:
            monkeypatch.setattr(os, "listdir", listdir)
            other.open()
        return listdir(path)

    monkeypatch.setattr(os, "listdir", list_late)
    store.open()
    assert store.id == other.id != ""


@pytest.mark.parametrize("name", ["with:sign", "a\udcff"])
def test_a_state_in_which_no_container_could_be_made_is_refused_before_anything_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for make in (longshore.Engine, longshore.sync.Engine):
        with pytest.raises(InvalidSpec) as caught:
            make(state=tmp_path / name / "state")
        assert caught.value.field == "state"
    monkeypatch.setenv("LONGSHORE_ROOT", str(tmp_path / name))
    with pytest.raises(InvalidSpec) as caught:
        Store.at(None)
    assert caught.value.field == "LONGSHORE_ROOT"
    str(caught.value).encode()  # it can be shown
    assert list(tmp_path.iterdir()) == []


# files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_new(path, b"one")
    write_new(path, b"two" * 100_000)
    assert path.read_bytes() == b"two" * 100_000
    with pytest.raises(FileNotFoundError):
        write_new(tmp_path / "no" / "file", b"")
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_written_once_is_its_first_writers(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert link_once(path, b"first")
    assert not link_once(path, b"second")
    assert path.read_bytes() == b"first"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


async def test_a_lock_that_is_never_given_back_is_told_after_its_limit(tmp_path: Path) -> None:
    held = try_hold(tmp_path / "lock")
    assert held is not None
    assert try_hold(tmp_path / "lock") is None
    with pytest.raises(StoreError, match="has held it"):
        async with hold(tmp_path / "lock", limit=0.05):
            pass
    held.release()
    held.release()
    async with asyncio.timeout(300), hold(tmp_path / "lock", limit=5):  # the waiter that gave up does not keep it
        assert try_hold(tmp_path / "lock") is None


@pytest.mark.skipif(os.name != "posix", reason="on Windows no child has a descriptor of its parent's")
def test_a_lock_ends_when_it_is_released_though_a_child_that_was_just_forked_has_it_too(tmp_path: Path) -> None:
    """As one has that is about to be a runtime, until it executes that: milliseconds on a slow machine."""
    path = tmp_path / "lock"
    held = try_hold(path)
    assert held is not None
    blocks, ends = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ends)
        os.read(blocks, 1)
        os._exit(0)
    try:
        assert try_hold(path) is None
        held.release()
        again = try_hold(path)
        assert again is not None
        again.release()
        with short_lock(path):
            pass
        with short_lock(path, limit=0):
            pass
    finally:
        os.close(blocks)
        os.close(ends)
        os.waitpid(child, 0)


async def test_waiting_for_a_lock_can_be_cancelled(tmp_path: Path) -> None:
    held = try_hold(tmp_path / "lock")
    assert held is not None
    waiting = asyncio.create_task(wait_for_lock(tmp_path / "lock", 100))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    held.release()
    async with asyncio.timeout(300), hold(tmp_path / "lock", limit=5):
        pass


def test_a_tree_is_removed_without_leaving_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "link").symlink_to(tmp_path / "outside")
    (tree / "a" / "closed").mkdir(mode=0)
    remove_tree(tree)
    remove_tree(tree)
    assert not tree.exists()
    assert (tmp_path / "outside" / "precious").exists()


def test_a_large_tree_is_removed_in_bits(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(100):
        (tree / str(number)).write_text("")
    assert not remove_some(tree, 40)
    assert 0 < len(list(tree.iterdir())) < 100
    assert remove_some(tree, 100)
    assert not tree.exists()


# the store


def test_what_somebody_left_who_died_while_he_made_a_store_goes_with_its_next_opening(store: Store) -> None:
    left = [store.data / ".store.json.12345678", store.run / ".boot.12345678"]
    for path in left:
        path.write_bytes(b"{")
    Store.at(store.data.parent).open()
    assert [path for path in left if path.exists()] == []


def test_an_id_is_taken_in_one_step(store: Store) -> None:
    _, claim = store.reserve("box", durable=True)
    for durable in (True, False):
        with pytest.raises(ContainerExists):
            store.reserve("box", durable=durable)
    with pytest.raises(InvalidState, match="created already"):
        store.container_dir("box").claim("delete")
    claim.release()
    with pytest.raises(ContainerNotFound):
        store.container_dir("box").read()


def test_looking_whether_it_is_claimed_takes_it_from_nobody(store: Store) -> None:
    entry, _ = make(store)
    assert not entry.is_claimed()
    claim = entry.claim("start")
    assert entry.is_claimed()
    assert entry.is_claimed("start")
    assert not entry.is_claimed("delete")
    claim.release()
    assert not entry.is_claimed()


def test_a_record_of_an_earlier_version_says_what_was_published(store: Store) -> None:
    """Those fields have had other names in the code since, and keep their names on the disk."""
    directory, record = make(store)
    directory.new_process("it", "lease")
    directory.write_process(store.new_process_record("it", ProcessSpec(args=["true"]), "lease", named=True))
    for path in (directory.home / "record.json", directory.run / "execs" / "it" / "record.json"):
        written = json.loads(path.read_bytes())
        path.write_text(json.dumps({**written, "start_told": True, "exit_told": True}))
    read, process = directory.read_own(record.uid), directory.read_process("it")
    assert process is not None
    assert (read.start_published, read.exit_published, process.exit_published) == (True, True, True)
    directory.write(read)
    directory.write_process(process)
    assert {"start_told", "exit_told"} <= json.loads((directory.home / "record.json").read_bytes()).keys()
    assert "exit_told" in json.loads((directory.run / "execs" / "it" / "record.json").read_bytes())


async def test_a_removed_container_leaves_nothing_and_its_id_is_free_before_that_is_told(store: Store) -> None:
    entry, record = make(store)
    claim = entry.claim("delete")

    def told() -> None:
        make(store)

    await entry.remove(record.uid, claim, told)
    claim.release()
    again = store.container_dir("box").read()
    assert again.uid != record.uid
    assert os.listdir(store.run_trash) == os.listdir(store.data_trash) == []


@pytest.mark.parametrize("steps", range(4))
def test_an_exec_whose_removal_was_cut_short_has_no_end_that_could_be_told_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Its exit was told; a record without one would be told as killed by who comes next."""
    entry, _ = make(store)
    entry.new_process("it", "lease")
    entry.write_process(store.new_process_record("it", ProcessSpec(args=["true"]), "lease", named=False))
    exit = Exit(code=0, cause=Cause.EXITED, at=now())
    assert entry.link_process_exit("it", ExitRecord(version=1, exit=exit))
    done, real = 0, os.unlink

    def unlink(path: Any, **words: Any) -> None:
        nonlocal done
        if done == steps:
            raise KeyboardInterrupt
        done += 1
        real(path, **words)

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(os, "unlink", unlink)
        entry.remove_process("it")
    assert entry.read_process("it") is None or entry.read_process_exit("it") is not None


async def test_a_change_of_a_container_that_has_a_successor_is_refused(store: Store) -> None:
    entry, record = make(store)
    await entry.remove(record.uid, entry.claim("delete"), lambda: None)
    make(store)
    with pytest.raises(ContainerNotFound):
        await entry.change(record.uid, lambda record: None)


def test_a_record_says_its_version_and_a_later_one_is_refused(store: Store) -> None:
    entry, _ = make(store)
    path = entry.home / "record.json"
    document = msgspec.json.decode(path.read_bytes())
    assert document["version"] == 1
    with pytest.raises(StoreError, match="version 2") as caught:
        decode(msgspec.json.encode(document | {"version": 2}), Record, path)
    assert not isinstance(caught.value, Damaged)
    with pytest.raises(Damaged, match=r"record\.json"):
        decode(b'{"version":1}', Record, path)


def test_an_exit_record_that_a_loss_of_power_emptied_is_none_and_can_be_written(store: Store) -> None:
    entry, _ = make(store)
    (entry.home / "exit.json").write_bytes(b"")
    assert entry.read_exit() is None
    assert entry.link_exit(ExitRecord(version=1, exit=Exit(code=1)))
    assert not entry.link_exit(ExitRecord(version=1, exit=Exit(code=2)))
    found = entry.read_exit()
    assert found is not None
    assert found.exit.code == 1


@pytest.mark.parametrize("owner", ["keep", "remove"])
async def test_what_is_told_of_a_kept_container_is_on_the_disk_when_it_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, owner: Owner
) -> None:
    """A loss of power takes nothing of it; what a boot ends anyway costs no wait for the disk."""
    synced: set[str] = set()
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.update(name for name in names if same_file(fd, home / name))
        real(fd)

    def same_file(fd: int, path: Path) -> bool:
        return path.exists() and os.path.samestat(os.fstat(fd), path.stat())

    directory = ["."] if os.name == "posix" else []  # Windows opens none
    names = ("spec.json", "record.json", "exit.json", *directory)
    async with world.engine() as engine:
        home = engine._state.store.kept / "box"
        monkeypatch.setattr(os, "fsync", fsync)
        box = await engine.create("box", args=FOREVER, owner=owner)
        assert synced == ({"spec.json", "record.json", *directory} if owner == "keep" else set())
        synced.clear()
        await box.start()
        assert synced == ({"record.json", *directory} if owner == "keep" else set()), "it says that it is being started"
        await box.kill()
        await box.wait()
        assert ("exit.json" in synced) == (owner == "keep")
        await box.delete()


@pytest.mark.speed
def test_the_records_of_a_thousand_containers_are_read_quickly(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bound with room for a busy machine: measured are 20 ms."""
    entry, record = make(store, "box-0")
    entry.link_exit(ExitRecord(version=1, exit=Exit(code=0, at=now())))
    record.exit_published = True
    entry.write(record)
    for number in range(1, 1000):
        id = f"box-{number}"
        shutil.copytree(entry.home, store.kept / id)
        shutil.copytree(entry.run, store.containers / id)
        record.id = id
        (store.kept / id / "record.json").write_bytes(msgspec.json.encode(record))
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        found = [(each.read(), each.read_exit()) for each in store.container_dirs()]
        times.append(time.perf_counter() - begin)
        assert len(found) == 1000
    with capsys.disabled():
        print(f"[1,000 records: {min(times) * 1000:.0f} ms]", end="")
    assert min(times) < 0.2


@pytest.mark.speed
async def test_the_engine_lists_a_thousand_containers_quickly(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    async with world.engine() as engine:
        box = await engine.launch("box-0", args=["true"])
        await box.wait()
        kept, run = world.state / "lib" / "containers", world.state / "run" / "containers"
        record = msgspec.json.decode((kept / "box-0" / "record.json").read_bytes())
        for number in range(1, 1000):
            id = f"box-{number}"
            for base in (kept, run):
                shutil.copytree(base / "box-0", base / id)
            (kept / id / "record.json").write_bytes(msgspec.json.encode(record | {"id": id, "uid": f"{number:016x}"}))
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            assert len(await engine.list()) == 1000
            times.append(time.perf_counter() - begin)
        for base in (kept, run):
            for number in range(1, 1000):
                shutil.rmtree(base / f"box-{number}")
    with capsys.disabled():
        print(f"[list of 1,000: {min(times) * 1000:.0f} ms]", end="")
    assert min(times) < 0.25


# the journal


def journal_at(path: Path) -> Journal:
    path.mkdir(exist_ok=True)
    return Journal(path)


def numbers(journal: Journal, since: int = 0) -> list[int]:
    return [event.seq for event in JournalReader(journal, since).read() if isinstance(event, Event)]


def test_events_are_numbered_without_holes(tmp_path: Path) -> None:
    journal = journal_at(tmp_path / "j")
    journal.append("box", "uid", NewEvent("start-container"), NewEvent("exit"))
    journal.append("box", "uid", NewEvent("delete"))
    assert numbers(journal) == [1, 2, 3]
    assert journal.last() == 3
    assert numbers(Journal(tmp_path / "j"), 1) == [2, 3]


def test_many_programs_write_one_order(tmp_path: Path) -> None:
    journal_at(tmp_path / "j")
    writers = [OTHERS.Process(target=_write_many, args=(tmp_path / "j", str(number))) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    events = [event for event in JournalReader(Journal(tmp_path / "j"), 0).read() if isinstance(event, Event)]
    assert [event.seq for event in events] == list(range(1, 401))
    for number in range(4):
        assert [event.process for event in events if event.uid == str(number)] == [str(n) for n in range(100)]


def _write_many(path: Path, uid: str) -> None:
    journal = Journal(path)
    for number in range(100):
        journal.append("box", uid, NewEvent("exit-process", process=str(number)))


def in_boot(path: Path, boot: str) -> Journal:
    """The journal as a program has it in a boot of the machine."""
    journal = journal_at(path)
    journal.boot = boot
    journal.begin(5)
    return journal


def lose(journal: Journal, count: int) -> None:
    """What a loss of power may do: the last lines never came to the disk."""
    path = Path(journal.path(1))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-count]))


@pytest.mark.parametrize("cursor", [2, 3, 4, 5])  # the last of which there is something, and of which nothing is left
def test_a_cursor_from_before_a_loss_of_power_gets_a_gap_and_all_that_was_told_since(
    tmp_path: Path, cursor: int
) -> None:
    before = in_boot(tmp_path / "j", "one")
    before.append("box", "uid", *[NewEvent("pause")] * 5)
    lose(before, 2)
    after = in_boot(tmp_path / "j", "two")
    reader = JournalReader(after, cursor)
    assert [event.seq for event in reader.read() if isinstance(event, Event)] == list(range(cursor + 1, 4))
    after.append("new", "uid", *[NewEvent("resume")] * 9)
    missing, *rest = reader.read()
    assert isinstance(missing, Gap)
    assert missing.since == max(cursor, 3) + 1
    first = missing.until + 1
    assert [(event.seq, event.container) for event in rest if isinstance(event, Event)] == [
        (number, "new") for number in range(first, first + 9)
    ]
    assert [gap for gap in JournalReader(after, cursor).read() if isinstance(gap, Gap)] == [missing]
    assert JournalReader(after, first).read() == rest[1:]  # of this boot nothing is missing


def test_a_cursor_beyond_all_that_can_have_been_lost_is_refused(tmp_path: Path) -> None:
    in_boot(tmp_path / "j", "one").append("box", "uid", NewEvent("pause"))
    after = in_boot(tmp_path / "j", "two")
    with pytest.raises(InvalidSpec, match="since"):
        JournalReader(after, after.base() + 1)


def test_who_begins_after_a_boot_misses_nothing(tmp_path: Path) -> None:
    in_boot(tmp_path / "j", "one").append("box", "uid", NewEvent("pause"))
    after = in_boot(tmp_path / "j", "two")
    reader = JournalReader(after, None)
    after.append("box", "uid", NewEvent("resume"))
    assert [event.type for event in reader.read() if isinstance(event, Event)] == ["resume"]


def test_in_one_boot_numbers_have_no_holes_whoever_opens_the_journal(tmp_path: Path) -> None:
    for _ in range(3):
        in_boot(tmp_path / "j", "one").append("box", "uid", NewEvent("pause"))
    assert numbers(in_boot(tmp_path / "j", "one")) == [1, 2, 3]


def test_two_programs_that_are_the_first_after_a_boot_leave_out_numbers_once(tmp_path: Path) -> None:
    in_boot(tmp_path / "j", "one").append("box", "uid", NewEvent("pause"))
    first, second = in_boot(tmp_path / "j", "two"), in_boot(tmp_path / "j", "two")
    first.append("box", "uid", NewEvent("resume"))
    second.append("box", "uid", NewEvent("pause"))
    begin = first.base() + 1
    assert numbers(first) == [1, begin, begin + 1]


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_no_number_is_given_again_though_a_whole_boot_was_lost(tmp_path: Path, lost: int) -> None:
    given: set[int] = set()
    for boot in ("one", "two", "three", "four"):
        journal = in_boot(tmp_path / "j", boot)
        journal.append("box", "uid", *[NewEvent("pause")] * lost)
        new = numbers(journal)[-lost:]
        assert not given.intersection(new)
        given.update(new)
        lose(journal, lost)


@pytest.mark.parametrize("content", [b"", b"\0" * 60, b"{}", b'{"boot":"two"'])
def test_where_the_boot_cannot_be_read_it_was_another(tmp_path: Path, content: bytes) -> None:
    in_boot(tmp_path / "j", "two").append("box", "uid", *[NewEvent("pause")] * 2)
    (tmp_path / "j" / "boot").write_bytes(content)
    journal = in_boot(tmp_path / "j", "two")
    journal.append("box", "uid", NewEvent("pause"))
    assert numbers(journal, 2)[0] > 2 + 100_000


async def test_the_boot_of_a_journal_is_on_the_disk_before_anything_is_told_in_it_and_then_costs_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(read_at(fd)))

    def read_at(fd: int) -> str:
        found = os.fstat(fd)
        mark = world.state / "lib" / "journal" / "boot"
        return mark.read_text() if os.path.samestat(found, mark.stat()) else ""

    async with world.engine() as engine:
        boot = engine._state.store.boot
        await engine.run("host", ["true"])
    async with world.engine() as engine:
        await engine.list()
    if not boot:
        pytest.skip("one boot cannot be told from another here")
    assert [text for text in synced if boot in text] == [f'{{"boot":"{boot}","base":0}}']


def test_a_line_torn_by_a_death_is_cut_off_and_its_number_used_again(tmp_path: Path) -> None:
    journal = journal_at(tmp_path / "j")
    journal.append("box", "uid", NewEvent("start-container"))
    with open(journal.path(1), "ab") as file:
        file.write(b'{"seq":2,"at":"20')
    assert numbers(journal) == [1]
    Journal(tmp_path / "j").append("box", "uid", NewEvent("exit"))
    assert numbers(journal) == [1, 2]


@pytest.mark.parametrize("size", [0, 100, 5000, 100_000])
def test_a_torn_line_of_any_size_is_cut_off(tmp_path: Path, size: int) -> None:
    journal = journal_at(tmp_path / "j")
    if size != 100:
        journal.append("box", "uid", NewEvent("start-container"))
    first = len(numbers(journal))
    with open(journal.path(1), "ab") as file:
        file.write(b"x" * size)
    Journal(tmp_path / "j").append("box", "uid", NewEvent("exit"))
    assert numbers(journal) == list(range(1, first + 2))


def test_a_line_that_cannot_be_read_is_a_gap(tmp_path: Path) -> None:
    journal = journal_at(tmp_path / "j")
    for _ in range(3):
        journal.append("box", "uid", NewEvent("pause"))
    path = Path(journal.path(1))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0" * (len(lines[1]) - 1) + b"\n" + lines[2])
    found = JournalReader(Journal(tmp_path / "j"), 0).read()
    assert [type(item).__name__ for item in found] == ["Event", "Gap", "Event"]
    assert found[1] == Gap(since=2, until=2)
    Journal(tmp_path / "j").append("box", "uid", NewEvent("resume"))
    assert numbers(journal)[-1] == 4


def test_old_segments_go_and_the_numbers_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_SIZE", 500)
    monkeypatch.setattr(journal_module, "SEGMENTS_KEPT", 3)
    journal = journal_at(tmp_path / "j")
    reader = JournalReader(journal, 0)
    seen: list[Event | Gap] = []
    for number in range(200):
        journal.append("box", "uid", NewEvent("pause"))
        if number % 3 == 0:
            seen += reader.read()
    seen += reader.read()
    assert [event.seq for event in seen if isinstance(event, Event)] == list(range(1, 201))  # who keeps up misses none
    assert len(journal.segments()) == 3
    late = JournalReader(journal, 0).read()
    assert isinstance(late[0], Gap)
    assert (late[0].since, late[0].until + 1) == (1, late[1].seq if isinstance(late[1], Event) else None)


def test_what_was_told_is_not_told_again(tmp_path: Path) -> None:
    journal = journal_at(tmp_path / "j")
    journal.append("other", "x", NewEvent("start-container"))
    since = journal.end()
    journal.append("box", "uid", NewEvent("start-container"))
    journal.append("box", "uid", NewEvent("start-container"), NewEvent("exit", process="init"), unless_since=since)
    journal.append("box", "uid", NewEvent("exit", process="init"), unless_since=since)
    assert [event.type for event in journal.about("uid", Position())] == ["start-container", "exit"]


@pytest.mark.speed
def test_looking_back_over_a_hundred_thousand_events_is_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENTS_KEPT", 100)
    journal = journal_at(tmp_path / "j")
    journal.append("box", "wanted", NewEvent("start-container"))
    line = Path(journal.path(1)).read_bytes().replace(b"wanted", b"others")
    for segment in range(1, 11):
        with open(journal.path(segment), "ab") as file:
            file.write(line * 10_000)
    begin = time.perf_counter()
    assert [event.type for event in journal.about("wanted", Position())] == ["start-container"]
    took = time.perf_counter() - begin
    with capsys.disabled():
        print(f"[back over 100,000 events: {took * 1000:.0f} ms]", end="")
    assert took < 0.5


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = journal_at(tmp_path / "j")
    journal.append("box", "uid", NewEvent("start-container"))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
    with pytest.raises(StoreError) as caught:
        journal.append("box", "uid", NewEvent("exit"))
    monkeypatch.undo()
    assert caught.value.hint is not None
    journal.append("box", "uid", NewEvent("exit"))
    assert numbers(journal) == [1, 2]


def test_a_lock_that_is_held_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    ready = OTHERS.Event()
    holder = OTHERS.Process(target=_hold_for_a_moment, args=(tmp_path / "lock", ready))
    holder.start()
    assert ready.wait(30)
    begin = time.monotonic()
    with short_lock(tmp_path / "lock"):
        assert time.monotonic() - begin > 0.05
    holder.join()


def _hold_for_a_moment(path: Path, ready: object) -> None:
    with short_lock(path):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(0.2)


@pytest.mark.speed
async def test_an_exit_costs_the_same_however_long_the_journal_is(world: World) -> None:
    """The journal is looked through only where somebody has died in between."""
    async with world.engine() as engine:
        box = await engine.launch("box", args=FOREVER)
        for segment in range(1, 8):
            with open(world.state / "lib" / "journal" / f"{segment:010d}.jsonl", "ab") as file:
                line = msgspec.json.encode(Event(seq=segment, at=now(), type="pause", container="x", uid="y")) + b"\n"
                file.write(line * 40_000)
        begin = time.perf_counter()
        await box.kill()
        await box.wait()
        await box.delete()
        assert time.perf_counter() - begin < 0.25
