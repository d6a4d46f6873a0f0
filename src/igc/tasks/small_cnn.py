"""The small convolutional network of the federated literature.

McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017, section 3, on
MNIST: two 5 x 5 convolutions (32 and 64 channels), each followed by a 2 x 2 maximum, a layer of 512 units, and one with a
unit a class. 1,663,370 parameters on grey images of 28 x 28 with ten classes. It normalises nothing.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

WIDTH = 32


class SmallCnn(nn.Module):
    """Images (batch, channels, size, size), at least 4 x 4, to logits (batch, labels).

    Args:
        channels: of the images.
        labels: number of classes.
        size: height and width of the images.
        width: channels after the first convolution; twice as many after the second, 16 times as many hidden units.
    """

    def __init__(self, channels: int, labels: int, size: int, width: int = WIDTH) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(channels, width, 5, padding=2)
        self.convolution2 = nn.Conv2d(width, 2 * width, 5, padding=2)
        self.hidden = nn.Linear(2 * width * (size // 4) ** 2, 16 * width)
        self.linear = nn.Linear(16 * width, labels)

    @override
    def forward(self, images: Tensor) -> Tensor:
        features = functional.max_pool2d(functional.relu(self.convolution1(images)), 2)
        features = functional.max_pool2d(functional.relu(self.convolution2(features)), 2)
        logits: Tensor = self.linear(functional.relu(self.hidden(features.flatten(1))))
        return logits
