"""One module for each verb, and the tables of them.

The tables say which module a verb is in, so that only that one is loaded: start-up time counts here. The name of a verb
of two words (`image ls`) has both.
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
    "pull": ("pull", "fetch images from their registries"),
    "push": ("push", "send an image to its registry"),
    "images": ("images", "list images"),
    "rmi": ("rmi", "remove images, or names of them"),
    "tag": ("tag", "give an image a further name"),
    "load": ("image_load", "add the images of an archive"),
    "save": ("image_save", "write images to an archive"),
    "history": ("history", "show the steps in the making of an image"),
    "login": ("login", "keep user and password for a registry"),
    "logout": ("logout", "forget user and password for a registry"),
    "image": ("image", "all that can be done with images; `image --help` lists it"),
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
OF_IMAGES: dict[str, tuple[str, str]] = {
    # the second word of `image`, as in VERBS
    "ls": ("images", "list images"),
    "inspect": ("image_inspect", "show all that is known of images, as JSON"),
    "history": VERBS["history"],
    "pull": VERBS["pull"],
    "push": VERBS["push"],
    "tag": VERBS["tag"],
    "rm": ("rmi", "remove images, or names of them"),
    "load": VERBS["load"],
    "save": VERBS["save"],
    "prune": ("image_prune", "remove images that nothing uses"),
    "verify": ("image_verify", "check images against their digests"),
}
GROUPS = {"image": OF_IMAGES}
ALIASES = {"unpause": "resume", "ls": "ps", "list": "ps", "delete": "rm"}
HIDDEN = {"__complete": "completion_words"}


def take_name(words: list[str]) -> tuple[str, list[str]]:
    """Return the name of a verb, which is one word or two, and the words that follow it."""
    first, *rest = words
    if rest and rest[0] in GROUPS.get(first, ()):
        return f"{first} {rest[0]}", rest[1:]
    return first, rest


def load(name: str) -> Verb:
    """Load and return the verb of this name. KeyError if there is none."""
    name = ALIASES.get(name, name)
    group, _, word = name.partition(" ")
    module = GROUPS[group][word][0] if word else HIDDEN.get(name) or VERBS[name][0]
    module = f"{__name__}.{module}"
    __import__(module)
    verb: Verb = sys.modules[module].VERB
    return verb
