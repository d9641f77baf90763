"""The log of a kept container: its format, rotation and reader."""
