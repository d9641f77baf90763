"""The trash: what is deleted is moved there in one step, told, and then removed; and what of that was not finished."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..engine.state import Core, log
from ..errors import StoreError
from ..fs.files import MOVES_WHAT_IS_OPEN, Held, read_whole, try_hold, write_new
from .container_dir import remove_in_bits
from .journal import News
from .records import Damaged, Record, decode

LEFT = ".left"  # after a uid, the name of a file beside it: why it cannot be removed


async def empty_trash(core: Core, *, again: bool = False) -> None:
    """Finish deletions that a program left when it died, and those that failed.

    A failure is reported and noted once, and only tried again with `again`. On Windows it is tried each time.
    """
    core.trash_left = False
    store = core.store
    if store.viewpoint.blind:
        return
    names = {*store.names(store.run_trash), *store.names(store.data_trash)}
    left = {name.removesuffix(LEFT) for name in names if name.endswith(LEFT)}
    uids = {name for name in names if not name.endswith(LEFT)}
    if again:
        uids |= left
    for uid in sorted(uids if again else uids - left):
        run, kept = store.run_trash / uid, store.data_trash / uid
        if _is_hidden(core, uid):
            continue
        try:
            claim = _claim_remains(run / "claim")
            if claim is None:
                continue
            try:
                _tell_deletion(core, uid)
                await remove_in_bits(kept)
                await remove_in_bits(run)
                _note_left(core, uid, None)
            finally:
                claim.release()
        except (OSError, StoreError) as error:
            if not MOVES_WHAT_IS_OPEN:  # Windows: another program may have a file of it open, and close it
                log.warning("emptying the trash: %s", error)
                core.trash_left = True
                continue
            log.warning("emptying the trash: %s; only `longshore restore` tries again", error)
            if not _note_left(core, uid, error):
                core.trash_left = True


def _note_left(core: Core, uid: str, error: Exception | None) -> bool:
    """Note beside an entry that it cannot be removed, and why; or remove that note. False if that cannot be done."""
    path = core.store.data_trash / f"{uid}{LEFT}"
    try:
        if error is None:
            path.unlink(missing_ok=True)
        else:
            write_new(path, str(error).encode("utf-8", "replace"))
    except OSError:
        return False
    return True


def _is_hidden(core: Core, uid: str) -> bool:
    """Whether what is left may be in use where this program cannot see."""
    for directory in (core.store.data_trash / uid, core.store.run_trash / uid):
        path = directory / "record.json"
        with suppress(OSError, StoreError):
            return core.store.sight(decode(read_whole(path), Record, path))[0] == "hidden"
    return core.store.sight_at(core.store.run) == "hidden"


def _claim_remains(path: Path) -> Held | None:
    """The claim that moved into the trash with its container; None if somebody has it: he is still at work."""
    try:
        return try_hold(path, make=False)
    except FileNotFoundError:
        return Held(-1)  # a boot has taken it, or the removal had come that far


def _tell_deletion(core: Core, uid: str) -> None:
    for directory in (core.store.data_trash / uid, core.store.run_trash / uid):
        path = directory / "record.json"
        with suppress(OSError, Damaged):
            record: Record = decode(read_whole(path), Record, path)
            if record.token:  # else it was never made, and nobody has heard of it
                core.store.journal.append(record.id, record.uid, News("delete"), unless_since=record.journal)
