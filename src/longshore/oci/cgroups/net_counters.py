"""What a process's network namespace has carried. proc_pid_net(5)."""

from __future__ import annotations

import os

from ...compute.values import NetworkStats


def network_stats(pid: int) -> list[NetworkStats] | None:
    """Counters of the interfaces that a process sees, without the loopback; None if they are the machine's own."""
    try:
        if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            return None
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
            lines = file.read().splitlines()[2:]
    except OSError:
        return None
    found = []
    for line in lines:
        name, _, rest = line.partition(":")
        numbers = [int(word) for word in rest.split()]
        if name.strip() != "lo" and len(numbers) >= 12:
            found.append(
                NetworkStats(
                    name=name.strip(),
                    received_bytes=numbers[0],
                    received_packets=numbers[1],
                    received_dropped=numbers[3],
                    sent_bytes=numbers[8],
                    sent_packets=numbers[9],
                    sent_dropped=numbers[11],
                )
            )
    return found
