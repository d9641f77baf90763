"""Registries: the protocol of the OCI's distribution specification, over HTTP in threads.

Everything here blocks, and is called from threads. urllib3 is imported by `transport` and `connections` only, which
nothing loads before a registry is asked.
"""
