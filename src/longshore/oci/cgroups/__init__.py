"""Control groups of both versions: limits, freezing, killing, counters."""
