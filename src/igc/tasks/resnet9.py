"""ResNet-9: a small residual network that learns fast.

D. Page, "How to train your ResNet", 2018 (the network of ``cifar10-fast``, DAWNBench): a convolution, three that double the
channels and halve the image, the first and the last of them each followed by a residual block of two, a maximum over what
is left of the image, and a linear layer without bias whose output counts an eighth. Rothchild et al., "FetchSGD", ICML
2020, train it without normalisation: 6,568,640 parameters at width 64 on colour images with ten classes.

Page normalises over the batch. That makes an example's gradient depend on its neighbours, and leaves statistics behind that
are no parameters: clients' gradients would no longer be functions of parameters and examples alone, and the sum over
clients no longer that over their examples. Here groups of 16 channels of one image are normalised instead (Wu and He,
"Group normalization", ECCV 2018), which adds 4,480 parameters at width 64.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

WIDTH = 64
_CHANNELS_OF_A_GROUP = 16
_SCALE = 0.125


class ResNet9(nn.Module):
    """Images (batch, channels, height, width), at least 8 x 8, to logits (batch, labels).

    Args:
        channels: of the images.
        labels: number of classes.
        width: channels after the first convolution; 8 times as many after the last.
    """

    def __init__(self, channels: int, labels: int, width: int = WIDTH) -> None:
        super().__init__()
        self.prepare = _Convolution(channels, width)
        self.layer1 = _Convolution(width, 2 * width, halve=True)
        self.residual1 = _Residual(2 * width)
        self.layer2 = _Convolution(2 * width, 4 * width, halve=True)
        self.layer3 = _Convolution(4 * width, 8 * width, halve=True)
        self.residual3 = _Residual(8 * width)
        self.linear = nn.Linear(8 * width, labels, bias=False)

    @override
    def forward(self, images: Tensor) -> Tensor:
        features = self.residual1(self.layer1(self.prepare(images)))
        features = self.residual3(self.layer3(self.layer2(features)))
        logits: Tensor = self.linear(features.amax((2, 3))) * _SCALE
        return logits


class _Convolution(nn.Module):
    def __init__(self, channels: int, out: int, *, halve: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(max(out // _CHANNELS_OF_A_GROUP, 1), out)
        self.halve = halve

    @override
    def forward(self, images: Tensor) -> Tensor:
        features = functional.relu(self.norm(self.convolution(images)))
        return functional.max_pool2d(features, 2) if self.halve else features


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _Convolution(channels, channels)
        self.second = _Convolution(channels, channels)

    @override
    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = images + self.second(self.first(images))
        return found
