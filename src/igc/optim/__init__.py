"""Optimizers: of the server, on means of uploads, and of a single machine, on sigma."""

from igc.optim.schedule import Schedule
from igc.optim.server import Adagrad, Adam, Carry, OptimizerState, ServerOptimizer, Sgd, Yogi, carried
from igc.optim.subspace import SubspaceOptimizer

__all__ = [
    "Adagrad",
    "Adam",
    "Carry",
    "OptimizerState",
    "Schedule",
    "ServerOptimizer",
    "Sgd",
    "SubspaceOptimizer",
    "Yogi",
    "carried",
]
