"""Optimizers: of the server, on means of uploads, and of a single machine, on sigma."""

from igc.optim.schedule import Schedule
from igc.optim.server import Adam, OptimizerState, ServerOptimizer, Sgd
from igc.optim.subspace import SubspaceOptimizer

__all__ = ["Adam", "OptimizerState", "Schedule", "ServerOptimizer", "Sgd", "SubspaceOptimizer"]
