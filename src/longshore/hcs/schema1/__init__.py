"""The documents of HCS, schema 1."""
