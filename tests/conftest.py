"""Settings of every test: one thread a process, and Hypothesis without a clock."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

# Read by Triton as it is imported: without a GPU its kernels run, slowly, in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Each xdist worker is a process of its own: threads on top of them only wait for one another.
torch.set_num_threads(1)

settings.register_profile("igc", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "igc")
