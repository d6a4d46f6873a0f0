"""Image classification: a small network from scratch, cross-entropy, accuracy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from igc.errors import DataError, ModelError
from igc.tasks import mlp, resnet9, small_cnn
from igc.tasks.base import Task
from igc.tasks.batching import device_of
from igc.tasks.fresh import drawn
from igc.tasks.models import torch_dtype
from igc.tasks.settings import ImageClassificationSettings, ModelSettings, misfit

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

_EVALUATION_BATCH = 250


class ImageClassification(Task):
    """Raw and prepared examples are :class:`igc.data.base.LabelledImage` or the like: ``(pixels, label)``, pixels uint8.

    Nothing is normalised over a batch and images are taken as they are, without random crops or flips: a gradient is a
    function of parameters and examples alone, and a batch's is the sum of its examples'.
    """

    name: ClassVar[str] = "image-classification"
    metric_name: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def __init__(self, settings: ImageClassificationSettings, model: ModelSettings, seed: int) -> None:
        if fault := misfit(settings, model):
            raise ModelError(f"model.{fault}")
        self.settings = settings
        self.source = model
        self.seed = seed

    @override
    def model(self) -> nn.Module:
        """The network with all weights drawn from the seed."""
        return drawn(partial(_build, self.settings, self.source), self.seed).to(torch_dtype(self.source))

    @override
    def prepare(self, raw: Sequence[Any]) -> list[Any]:
        """Check pairs ``(pixels, label)`` and keep them.

        Raises:
            DataError: an image has another shape, or a label is not one of ``0 .. labels - 1``.
        """
        s = self.settings
        shape = (s.channels, s.size, s.size)
        for pixels, label in raw:
            if pixels.shape != shape:
                raise DataError(
                    f"an image has {_times(pixels.shape)} (channels, height, width), but the task {_times(shape)}; set"
                    " task.channels and task.size"
                )
            if not 0 <= label < s.labels:
                raise DataError(f"label {label} does not fit a task with labels = {s.labels}")
        return list(raw)

    @override
    def loss(self, model: nn.Module, examples: Sequence[Any]) -> tuple[Tensor, int]:
        """Summed cross-entropy in float32, and the number of examples."""
        logits, labels = self._logits(model, examples)
        return functional.cross_entropy(logits, labels, reduction="sum"), len(examples)

    @override
    def count(self, examples: Sequence[Any]) -> int:
        """One prediction an example."""
        return len(examples)

    @override
    @torch.no_grad()
    def evaluate(self, model: nn.Module, examples: Sequence[Any]) -> dict[str, float]:
        """Mean cross-entropy and accuracy.

        Raises:
            DataError: there are no examples.
        """
        if not examples:
            raise DataError("there are no examples to evaluate on")
        loss, right = 0.0, 0
        for start in range(0, len(examples), _EVALUATION_BATCH):
            logits, labels = self._logits(model, examples[start : start + _EVALUATION_BATCH])
            loss += functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(-1) == labels).sum())
        return {"loss": loss / len(examples), "accuracy": right / len(examples)}

    @property
    @override
    def reads_merged(self) -> str:
        return "from igc.tasks.image_classification import load_merged; load_merged(path)"

    @override
    def save_merged(self, model: nn.Module, folder: Path) -> None:
        """Write weights and config; there is no Hugging Face format for these networks: `load_merged` reads them."""
        config = {"task": self.settings.model_dump(mode="json"), "model": self.source.model_dump(mode="json")}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)

    def _logits(self, model: nn.Module, examples: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Logits ``(batch, labels)`` in float32, and labels ``(batch,)``, on the model's device."""
        device = device_of(model)
        pixels = torch.from_numpy(np.stack([pixels for pixels, _ in examples])).to(device).float()
        mean, deviation = (
            torch.tensor(values, device=device)[:, None, None] for values in (self.settings.mean, self.settings.std)
        )
        images = (pixels / 255 - mean) / deviation
        labels = torch.tensor([label for _, label in examples], device=device)
        return model(images.to(next(model.parameters()).dtype)).float(), labels


def load_merged(folder: str | Path) -> tuple[ImageClassification, nn.Module]:
    """Read what `igc export` wrote under ``merged/``.

    Returns:
        The task, which knows how images are prepared and normalised, and the trained model on the CPU, in eval mode.

    Raises:
        ModelError: config or weights are missing or damaged.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        task = ImageClassification(
            ImageClassificationSettings.model_validate(config["task"]), ModelSettings.model_validate(config["model"]), 0
        )
        model = task.model()
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"cannot read the model in {folder}: {why[:300]}") from error
    return task, model


def _build(settings: ImageClassificationSettings, model: ModelSettings) -> nn.Module:
    if model.source == "resnet9":
        return resnet9.ResNet9(settings.channels, settings.labels, model.width or resnet9.WIDTH)
    if model.source == "mlp":
        return mlp.Mlp(settings.channels, settings.labels, settings.size, model.width or mlp.WIDTH)
    return small_cnn.SmallCnn(settings.channels, settings.labels, settings.size, model.width or small_cnn.WIDTH)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
