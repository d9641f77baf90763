"""Compute systems of HCS and their processes."""
