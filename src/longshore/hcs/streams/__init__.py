"""The pipes of a process as asyncio's stream objects."""
