"""The trash of the store.

Deletion renames a container directory into the trash, publishes `delete`, then removes the files. Interrupted deletions
are completed later, here.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from ..errors import StoreError
from ..fs.files import MOVES_WHAT_IS_OPEN, LockFile, read_whole, try_hold, write_new
from .container_dir import remove_in_bits
from .journal import NewEvent
from .records import Damaged, Record, decode
from .state_directory import Store

log = logging.getLogger("longshore.store")

LEFT = ".left"  # after a uid, the name of a file beside it: why it cannot be removed


async def empty_trash(store: Store, *, again: bool = False) -> bool:
    """Complete deletions that a program left when it died, and those that failed.

    A failure is reported and noted once, and only tried again with `again`. On Windows it is tried each time.
    Returns whether something is left that the next call should try.
    """
    left_over = False
    if store.viewpoint.blind:
        return False
    names = {*store.names(store.run_trash), *store.names(store.data_trash)}
    left = {name.removesuffix(LEFT) for name in names if name.endswith(LEFT)}
    uids = {name for name in names if not name.endswith(LEFT)}
    if again:
        uids |= left
    for uid in sorted(uids if again else uids - left):
        run, kept = store.run_trash / uid, store.data_trash / uid
        if _is_hidden(store, uid):
            continue
        try:
            claim = _claim_remains(run / "claim")
            if claim is None:
                continue
            try:
                _publish_deletion(store, uid)
                await remove_in_bits(kept)
                await remove_in_bits(run)
                _note_left(store, uid, None)
            finally:
                claim.release()
        except (OSError, StoreError) as error:
            if not MOVES_WHAT_IS_OPEN:  # Windows: another program may have a file of it open, and close it
                log.warning("emptying the trash: %s", error)
                left_over = True
                continue
            log.warning("emptying the trash: %s; only `longshore restore` tries again", error)
            if not _note_left(store, uid, error):
                left_over = True
    return left_over


def _note_left(store: Store, uid: str, error: Exception | None) -> bool:
    """Note beside an entry that it cannot be removed, and why; or remove that note. False if that cannot be done."""
    path = store.data_trash / f"{uid}{LEFT}"
    try:
        if error is None:
            path.unlink(missing_ok=True)
        else:
            write_new(path, str(error).encode("utf-8", "replace"))
    except OSError:
        return False
    return True


def _is_hidden(store: Store, uid: str) -> bool:
    """Whether what is left may be in use where this program cannot see."""
    for directory in (store.data_trash / uid, store.run_trash / uid):
        path = directory / "record.json"
        with suppress(OSError, StoreError):
            return store.sight(decode(read_whole(path), Record, path))[0] == "hidden"
    return store.sight_at(store.run) == "hidden"


def _claim_remains(path: Path) -> LockFile | None:
    """The claim that moved into the trash with its container; None if somebody has it: he is still at work."""
    try:
        return try_hold(path, make=False)
    except FileNotFoundError:
        return LockFile(-1)  # a boot has taken it, or the removal had come that far


def _publish_deletion(store: Store, uid: str) -> None:
    for directory in (store.data_trash / uid, store.run_trash / uid):
        path = directory / "record.json"
        with suppress(OSError, Damaged):
            record: Record = decode(read_whole(path), Record, path)
            if record.token:  # else it was never made, and nobody has heard of it
                store.journal.append(record.id, record.uid, NewEvent("delete"), unless_since=record.journal)
