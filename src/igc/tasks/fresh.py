"""Models that nobody has trained: every weight is drawn from the recipe's seed, the same bits on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from igc.projection.philox import Stream, child_seed, words

_UNIT = 2.0**-23  # 24 random bits, as many as a float32 holds, make [0, 2)


@torch.no_grad()
def drawn(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a model and draw its parameters; whatever a constructor would have drawn is not.

    Weights of at least two axes are uniform in +-sqrt(6 / fan-in), with variance 2 / fan-in: He et al., "Delving deep into
    rectifiers", ICCV 2015, equation 10. Gains of normalisation are one, biases zero. Each tensor has a seed of its own, by
    its place in the order of names, and the only arithmetic is a product in float32, which every processor rounds alike;
    normal numbers are not the same on all of them.

    Args:
        build: makes the model; it has no buffers.
        seed: of all weights.

    Returns:
        The model, in float32 on the CPU, in eval mode.
    """
    with torch.device("meta"):
        model = build()
    model = model.to_empty(device="cpu")
    for place, (name, parameter) in enumerate(sorted(model.named_parameters())):
        if parameter.dim() >= 2:
            random = words(child_seed(seed, place), Stream.WEIGHTS, 0, parameter.numel())
            bound = math.sqrt(6 / parameter[0].numel())
            uniform = (random >> 8).to(torch.float32).mul_(_UNIT).sub_(1)
            parameter.copy_(uniform.mul_(bound).reshape(parameter.shape))
        else:
            parameter.fill_(0 if name.endswith("bias") else 1)
    return model.eval()
