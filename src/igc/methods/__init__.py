"""Federated methods: one small file each, reading like its pseudo-code."""

from igc.methods.base import Means, Method, MissedError, Traffic, Turn
from igc.methods.fedsgd import fedsgd
from igc.methods.k_subspace import KSubspace
from igc.methods.local_steps import LocalSteps
from igc.methods.static import Static
from igc.methods.time_varying import TimeVarying
from igc.methods.worker import Loss, Sketch, Worker

__all__ = [
    "KSubspace",
    "LocalSteps",
    "Loss",
    "Means",
    "Method",
    "MissedError",
    "Sketch",
    "Static",
    "TimeVarying",
    "Traffic",
    "Turn",
    "Worker",
    "fedsgd",
]
