"""Exit codes of the command line that are its own."""

ENGINE_FAILED = 125
"""longshore failed, not the command."""
