"""Runs a verb with an engine, and continues in the background."""
