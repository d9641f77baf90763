"""Processes of Linux: how helper programs are started, their streams, what /proc shows."""
