"""Image classification: networks as published, weights from the seed alone, models that read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from igc.errors import DataError, ModelError
from igc.tasks import ImageClassificationSettings, ModelSettings, build_task
from igc.tasks.image_classification import WEIGHTS, ImageClassification, load_merged

GREY = ImageClassificationSettings()
COLOUR = ImageClassificationSettings(channels=3, size=32)


def task(source: str, settings: ImageClassificationSettings = GREY, seed: int = 0, **model: Any) -> ImageClassification:
    found = build_task(settings, ModelSettings(source=source, **model), seed)
    assert isinstance(found, ImageClassification)
    return found


def images(settings: ImageClassificationSettings, count: int = 4) -> list[tuple[Any, int]]:
    rng = np.random.default_rng(1)
    shape = (settings.channels, settings.size, settings.size)
    return [(rng.integers(0, 256, shape, dtype=np.uint8), i % settings.labels) for i in range(count)]


@pytest.mark.parametrize(
    ("source", "settings", "parameters"),
    [
        ("small-cnn", GREY, 1_663_370),  # McMahan et al. 2017, section 3
        ("mlp", GREY, 199_210),  # Li et al. 2018, section 3
        ("resnet9", COLOUR, 6_568_640 + 4_480),  # Rothchild et al. 2020, and the gains and biases of normalisation
    ],
)
def test_networks_have_the_published_number_of_parameters(
    source: str, settings: ImageClassificationSettings, parameters: int
) -> None:
    assert sum(p.numel() for p in task(source, settings).model().parameters()) == parameters


def test_the_small_networks_compute_what_their_papers_say() -> None:
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for source, by_hand in (("small-cnn", _small_cnn), ("mlp", _mlp)):
        model = task(source).model()
        torch.testing.assert_close(model(x), by_hand(dict(model.named_parameters()), x))


def _small_cnn(p: dict[str, Tensor], x: Tensor) -> Tensor:
    for name in ("convolution1", "convolution2"):
        patches = functional.unfold(x, 5, padding=2).transpose(1, 2)  # a convolution as a matrix product
        y = patches @ p[f"{name}.weight"].flatten(1).T + p[f"{name}.bias"]
        y = y.transpose(1, 2).reshape(len(x), -1, *x.shape[2:]).clamp(min=0)
        x = y.reshape(len(y), -1, y.shape[2] // 2, 2, y.shape[3] // 2, 2).amax((3, 5))
    hidden = (x.flatten(1) @ p["hidden.weight"].T + p["hidden.bias"]).clamp(min=0)
    return hidden @ p["linear.weight"].T + p["linear.bias"]


def _mlp(p: dict[str, Tensor], x: Tensor) -> Tensor:
    hidden = (x.flatten(1) @ p["hidden1.weight"].T + p["hidden1.bias"]).clamp(min=0)
    hidden = (hidden @ p["hidden2.weight"].T + p["hidden2.bias"]).clamp(min=0)
    return hidden @ p["linear.weight"].T + p["linear.bias"]


@pytest.mark.parametrize("source", ["resnet9", "small-cnn", "mlp"])
def test_weights_are_the_seeds_alone(source: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (task(source, seed=seed, width=16).model() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
        assert weight.dim() < 2 or not torch.equal(weight, other.state_dict()[name])


def test_weights_have_the_variance_that_keeps_activations_in_range() -> None:
    for name, weight in task("mlp").model().named_parameters():
        if weight.dim() >= 2:  # He et al. 2015: 2 over the fan-in, zero mean
            assert weight.var().item() == pytest.approx(2 / weight.shape[1], rel=0.1)
            assert abs(weight.mean().item()) < 0.1 * weight.std().item()
        else:
            assert not weight.any(), name


@pytest.mark.parametrize("source", ["resnet9", "small-cnn", "mlp"])
def test_an_examples_gradient_does_not_depend_on_its_neighbours(source: str) -> None:
    it = task(source, width=16)
    model = it.model().double()
    examples = it.prepare(images(GREY))

    def gradient(part: list[Any]) -> Tensor:
        loss, count = it.loss(model, part)
        assert count == len(part)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    alone = sum(gradient([example]) for example in examples)
    torch.testing.assert_close(gradient(examples), alone, rtol=1e-4, atol=1e-6)


def test_evaluation_is_the_mean_over_all_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    it = task("mlp")
    model = it.model()
    examples = it.prepare(images(GREY, 7))
    whole = it.evaluate(model, examples)
    monkeypatch.setattr("igc.tasks.image_classification._EVALUATION_BATCH", 3)
    assert it.evaluate(model, examples) == pytest.approx(whole)
    assert whole["loss"] == pytest.approx(float(it.loss(model, examples)[0].detach()) / 7, rel=1e-5)
    with pytest.raises(DataError, match="no examples"):
        it.evaluate(model, [])


def test_a_merged_export_reads_back(tmp_path: Path) -> None:
    it = task("resnet9", width=16)
    model = it.model()
    nn.init.constant_(model.linear.weight, 0.01)  # type: ignore[arg-type, union-attr]
    it.save_merged(model, tmp_path)
    again, loaded = load_merged(str(tmp_path))  # as the line that `igc export` prints has it
    examples = images(GREY)
    assert again.evaluate(loaded, again.prepare(examples)) == it.evaluate(model, it.prepare(examples))
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-8])
    with pytest.raises(ModelError, match="cannot read the model"):
        load_merged(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"task": {}}))
    with pytest.raises(ModelError, match="cannot read the model"):
        load_merged(tmp_path)


def test_images_that_do_not_fit_are_refused() -> None:
    it = task("mlp")
    with pytest.raises(DataError, match=r"an image has 3 x 32 x 32 .* but the task 1 x 28 x 28"):
        it.prepare(images(COLOUR))
    with pytest.raises(DataError, match="label 10 does not fit a task with labels = 10"):
        it.prepare([(images(GREY)[0][0], 10)])
