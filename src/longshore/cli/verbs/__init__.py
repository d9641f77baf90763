"""One module for each verb, and the table of them.

The table says which module a verb is in, so that only that one is loaded: start-up time counts here.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..arguments.parser import Verb

VERBS: dict[str, tuple[str, str]] = {
    # verb: (module, what it does); in the order in which `--help` lists them
    "run": ("run", "run a command in a new container"),
    "create": ("create", "create a container without starting it"),
    "start": ("start", "start created containers"),
    "exec": ("exec", "run another command in a running container"),
    "attach": ("attach", "connect this terminal to a running container"),
    "logs": ("logs", "show the output of a container"),
    "wait": ("wait", "wait until containers have ended; print their exit codes"),
    "stop": ("stop", "ask containers to end; kill them after a grace period"),
    "kill": ("kill", "kill containers, or send them a signal"),
    "signal": ("signal", "send a signal to a container or to one of its processes"),
    "pause": ("pause", "freeze containers"),
    "resume": ("resume", "resume paused containers"),
    "resize": ("resize", "set the size of a container's terminal"),
    "rm": ("rm", "remove containers"),
    "ps": ("ps", "list containers"),
    "inspect": ("inspect", "show everything about containers, as JSON"),
    "stats": ("stats", "show the resource usage of containers"),
    "top": ("top", "list the processes in a container"),
    "pids": ("pids", "print the pids of the processes in a container"),
    "update": ("update", "change the limits of running containers"),
    "events": ("events", "follow the events of containers"),
    "checkpoint": ("checkpoint", "save a running container to files"),
    "checkpoints": ("checkpoints", "list or remove the checkpoints of a container"),
    "import": ("import_", "create a container from an exported checkpoint"),
    "restore": ("restore", "complete the records of containers after a crash"),
    "explain": ("explain", "show what `run` or `create` would do, and why"),
    "doctor": ("doctor", "show what works on this machine, and the reason for the rest"),
    "version": ("version", "show the versions of longshore and its parts"),
    "completion": ("completion", "print a completion script for a shell"),
    "help": ("help", "show help about longshore or a verb"),
}
ALIASES = {"unpause": "resume", "ls": "ps", "list": "ps", "delete": "rm"}
HIDDEN = {"__complete": "completion_words"}


def load(name: str) -> Verb:
    """Load and return the verb of this name. KeyError if there is none."""
    name = ALIASES.get(name, name)
    module = HIDDEN.get(name) or VERBS[name][0]
    module = f"{__name__}.{module}"
    __import__(module)
    verb: Verb = sys.modules[module].VERB
    return verb
