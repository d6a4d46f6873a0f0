"""The fully connected network whose intrinsic dimension on MNIST was measured to be 750.

C. Li et al., "Measuring the intrinsic dimension of objective landscapes", ICLR 2018, section 3: 784 - 200 - 200 - 10 with
ReLU, 199,210 parameters on grey images of 28 x 28 with ten classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

WIDTH = 200


class Mlp(nn.Module):
    """Images (batch, channels, size, size) to logits (batch, labels).

    Args:
        channels: of the images.
        labels: number of classes.
        size: height and width of the images.
        width: units of each of the two hidden layers.
    """

    def __init__(self, channels: int, labels: int, size: int, width: int = WIDTH) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(channels * size**2, width)
        self.hidden2 = nn.Linear(width, width)
        self.linear = nn.Linear(width, labels)

    @override
    def forward(self, images: Tensor) -> Tensor:
        features = functional.relu(self.hidden1(images.flatten(1)))
        logits: Tensor = self.linear(functional.relu(self.hidden2(features)))
        return logits
