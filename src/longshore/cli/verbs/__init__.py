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
    "run": ("run", "run a command in a container of its own"),
    "create": ("create", "make a container without starting it"),
    "start": ("start", "start created containers"),
    "exec": ("exec", "run a further command in a running container"),
    "attach": ("attach", "connect this terminal to a running container"),
    "logs": ("logs", "show what a container wrote"),
    "wait": ("wait", "wait until containers have ended; print their exit codes"),
    "stop": ("stop", "ask containers to end, and kill them after a grace"),
    "kill": ("kill", "kill containers, or send them a signal"),
    "signal": ("signal", "send a signal to a container or to one of its processes"),
    "pause": ("pause", "freeze containers"),
    "resume": ("resume", "let paused containers go on"),
    "resize": ("resize", "set the size of a container's terminal"),
    "rm": ("rm", "remove containers"),
    "ps": ("ps", "list containers"),
    "inspect": ("inspect", "show all that is known of containers, as JSON"),
    "stats": ("stats", "show what containers use"),
    "top": ("top", "list the processes in a container"),
    "pids": ("pids", "print the pids of the processes in a container"),
    "update": ("update", "change the limits of living containers"),
    "events": ("events", "follow what happens to containers"),
    "checkpoint": ("checkpoint", "write a container to files, from which it can go on"),
    "checkpoints": ("checkpoints", "list or remove the checkpoints of a container"),
    "import": ("import_", "make a container of an exported checkpoint"),
    "restore": ("restore", "take up containers again after a crash"),
    "explain": ("explain", "show what `run` or `create` would do, and why"),
    "doctor": ("doctor", "show what works on this machine, and why the rest does not"),
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
