"""Files, locks, watches and trees, for programs that may be killed while they write."""
