"""The terminal, streams, output and signals of this program."""
