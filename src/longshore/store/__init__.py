"""The state directory: container directories, records, the journal, the trash, leases. docs/state.md describes it."""
