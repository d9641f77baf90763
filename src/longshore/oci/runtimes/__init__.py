"""crun, runc and conmon as programs, and how the end of a container's process is known."""
