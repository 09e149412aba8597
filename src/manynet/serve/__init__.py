"""Serve: a trained family behind HTTP, that switches members by latency target and load."""

from manynet.serve._device import Device, new_token, read_token, serve_device, serving_device
from manynet.serve._engine import Answer, Batching, Closed, Engine, Overload, Watcher
from manynet.serve._members import Members, Takes
from manynet.serve._policy import (
    POLICIES,
    Candidate,
    Decision,
    Policy,
    State,
    Waiting,
    in_time,
    largest,
    policy_of,
)
from manynet.serve._serve import Serving, serve, serving

__all__ = [
    "POLICIES",
    "Answer",
    "Batching",
    "Candidate",
    "Closed",
    "Decision",
    "Device",
    "Engine",
    "Members",
    "Overload",
    "Policy",
    "Serving",
    "State",
    "Takes",
    "Waiting",
    "Watcher",
    "in_time",
    "largest",
    "new_token",
    "policy_of",
    "read_token",
    "serve",
    "serve_device",
    "serving",
    "serving_device",
]
