"""A compute service with memory: test your own code with it, without a container runtime.

simulator = Simulator("oci", programs={"serve": serve})
simulator.fail_at("start", ServiceError("start", "web", "no memory"))
async with longshore.Engine(simulator) as engine:
    ...
assert simulator.systems == {}
"""

from __future__ import annotations

from .machine import Machine
from .process import Process, Signals
from .programs import Program
from .service import STEPS, Simulator
from .streams import Input, Output
from .system import System
from .temperament import Temperament

__all__ = [
    "STEPS",
    "Input",
    "Machine",
    "Output",
    "Process",
    "Program",
    "Signals",
    "Simulator",
    "System",
    "Temperament",
]
