"""What the service tells of a system, in longshore's words: statistics, processes, moments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from ...compute import values
from ...compute.values import NetworkStats, ProcessInfo, Stats
from ...errors import ServiceError
from ..schema1 import documents

if TYPE_CHECKING:
    from ..dll.calls import Handle
    from ..dll.vmcompute import System
    from .process import ProcessToken
    from .session import Session

TICKS = 10_000_000  # 100 ns units in a second
SAME_CLOCK = timedelta(seconds=5)  # that the time the service gives a process may lie outside of the call that made it
OTHER_CLOCK = timedelta(minutes=2)  # a utility VM has a clock of its own


BROKEN = "restart the compute service: `Restart-Service vmcompute`"


def now() -> datetime:
    """The moment before something is asked for."""
    return values.now()


async def ask(
    session: Session, handle: Handle[System], container_id: str, *types: str, limit: float | None = None
) -> documents.ContainerProperties:
    """Ask the service for the properties of some types."""
    query = documents.property_query(*types)
    operation = f"read {' and '.join(types) or 'the properties'} of"
    call = handle.call(operation, session.vmcompute.get_compute_system_properties, query)
    text = await session.answer(operation, container_id, call, limit)
    return properties(text, ", ".join(types), container_id)


def properties(text: str | None, of: str, container_id: str) -> documents.ContainerProperties:
    """The properties document. ServiceError if the service gave none, or what is no JSON."""
    if text is None:
        raise ServiceError(f"read {of} of", container_id, "the service returned no document", hint=BROKEN)
    try:
        return documents.decode(text, documents.ContainerProperties)
    except msgspec.MsgspecError as error:
        raise ServiceError(
            f"read {of} of", container_id, f"the service returned another document: {error}", hint=BROKEN
        ) from error


def listed(text: str | None) -> list[documents.ContainerProperties]:
    """The systems that an enumeration lists."""
    try:
        return documents.decode(text or "[]", list[documents.ContainerProperties] | None) or []  # type: ignore[arg-type]
    except msgspec.MsgspecError as error:
        raise ServiceError(
            "list the compute systems", None, f"the service returned no list: {error}", hint=BROKEN
        ) from error


def is_listed(found: documents.ContainerProperties, token: ProcessToken, *, hyperv: bool) -> bool:
    """Whether the processes of a system have this one, and not only a later one with its number."""
    # the call that made it may have taken its time, and the clock may have been set meanwhile
    moments = sorted([token.started_at, token.returned_at or token.started_at])
    off = OTHER_CLOCK if hyperv else SAME_CLOCK
    for item in found.process_list or []:
        created = moment(item.create_timestamp)  # None: an old build does not tell
        if item.process_id == token.pid and (created is None or moments[0] - off <= created <= moments[1] + off):
            return True
    return False


def moment(value: datetime | None) -> datetime | None:
    """A time of the service's in UTC; None for the year 1, with which it says "not known"."""
    if value is None or value.year <= 1:
        return None
    try:
        return value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)
    except OverflowError:  # the last hours of the year 9999
        return None


def stats(found: documents.Statistics | None) -> Stats:
    """Counters of a running container; what the service leaves out is 0, as the service means it."""
    found = found or documents.Statistics()
    memory = found.memory or documents.MemoryStatistics()
    processor = found.processor or documents.ProcessorStatistics()
    storage = found.storage or documents.StorageStatistics()
    return Stats(
        at=moment(found.timestamp) or values.now(),
        started_at=moment(found.container_start_time),
        uptime=found.uptime / TICKS,
        cpu_time=processor.total_runtime / TICKS,
        cpu_user=processor.runtime_user / TICKS,
        cpu_system=processor.runtime_kernel / TICKS,
        memory=memory.memory_usage_private_working_set_bytes,
        memory_peak=memory.memory_usage_commit_peak_bytes,
        memory_commit=memory.memory_usage_commit_bytes,
        read_bytes=storage.read_size_bytes,
        written_bytes=storage.write_size_bytes,
        read_operations=storage.read_count_normalized,
        write_operations=storage.write_count_normalized,
        network=[
            NetworkStats(
                name=each.endpoint_id or each.instance_id,
                received_bytes=each.bytes_received,
                sent_bytes=each.bytes_sent,
                received_packets=each.packets_received,
                sent_packets=each.packets_sent,
                received_dropped=each.dropped_packets_incoming,
                sent_dropped=each.dropped_packets_outgoing,
                endpoint_id=each.endpoint_id or None,
                instance_id=each.instance_id or None,
            )
            for each in found.network or []
        ],
    )


def process_info(item: documents.ProcessListItem) -> ProcessInfo:
    """One process of a container; the list also shows the system's own."""
    return ProcessInfo(
        pid=item.process_id,
        command=item.image_name,
        started_at=moment(item.create_timestamp),
        cpu_user=item.user_time / TICKS,
        cpu_system=item.kernel_time / TICKS,
        memory=item.memory_working_set_private_bytes,
        memory_shared=item.memory_working_set_shared_bytes,
        memory_commit=item.memory_commit_bytes,
    )
