"""LoRA: train low-rank additions to some linear layers, and the new head, of a model that is otherwise frozen.

Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022: W + (alpha / r) B A, A drawn, B zero at the
start. With A frozen it is FFA-LoRA (Sun et al., "Improving LoRA in privacy-preserving federated learning", ICLR 2024): the
mean of clients' B is then the mean of their models. The layers are PEFT's; what they begin with is drawn here, so that
theta_0 depends on the recipe's seed alone.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from igc.errors import ModelError
from igc.tasks.settings import ModelSettings


def add_lora_(
    model: nn.Module, settings: ModelSettings, architecture: str, head: Collection[str], generator: torch.Generator
) -> None:
    """Freeze a model but for its head, and add LoRA layers; nothing happens where the settings ask for none.

    Args:
        model: changed in place.
        settings: with the rank, and the layers if not those that PEFT adapts in this architecture.
        architecture: as `transformers` calls it: "bert", "gpt2", "llama".
        head: names of the parameters that stay trainable: those that were drawn anew.
        generator: draws A.

    Raises:
        ModelError: PEFT is not installed, or the layers cannot be told, are not there, or are not linear.
    """
    if settings.lora_rank is None:
        return
    if importlib.util.find_spec("peft") is None:
        raise ModelError("model.lora_rank needs the package 'peft': pip install 'intrinsic-gradient-compression[lora]'")
    import peft  # noqa: PLC0415 - slow, and an extra

    layers = _layers(model, settings.lora_targets or _usual(architecture))
    alpha = 2 * settings.lora_rank if settings.lora_alpha is None else settings.lora_alpha
    config = peft.LoraConfig(
        r=settings.lora_rank,
        lora_alpha=alpha,
        target_modules=list(layers),
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=all(isinstance(layer, Conv1D) for layer in layers.values()),
    )
    trained = {id(parameter) for name, parameter in model.named_parameters() if name in head}
    peft.inject_adapter_in_model(config, model)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if ".lora_A." in name:  # (r, in): as PEFT draws it, nn.Linear's own distribution
                bound = 1 / math.sqrt(parameter.shape[1])
                drawn = torch.empty(parameter.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
                parameter.copy_(drawn)
                parameter.requires_grad_(not settings.lora_freeze_a)
            elif ".lora_B." in name:
                parameter.zero_()
            else:
                parameter.requires_grad_(id(parameter) in trained)


def without_lora(model: nn.Module) -> nn.Module:
    """A copy with LoRA layers merged into the weights that they add to; the model itself where it has none."""
    if not any(".lora_A." in name for name, _ in model.named_parameters()):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - slow, and an extra

    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            plain.set_submodule(name, module.get_base_layer())
    return plain


def underlying(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of a model without its LoRA layers, frozen ones included."""
    return [parameter for name, parameter in model.named_parameters() if ".lora_" not in name]


def _usual(architecture: str) -> Collection[str]:
    from peft.utils.constants import (  # noqa: PLC0415 - slow, and an extra
        TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL,
    )

    found: Collection[str] | None = USUAL.get(architecture)
    if found is None:
        raise ModelError(
            f"PEFT has no usual LoRA layers for the architecture '{architecture}'; name some in model.lora_targets, such as"
            " ['q_proj', 'v_proj']"
        )
    return found


def _layers(model: nn.Module, targets: Collection[str]) -> dict[str, nn.Module]:
    """The layers of these names, whole or the last parts of them."""
    modules: dict[str, Any] = dict(model.named_modules())
    found: dict[str, nn.Module] = {}
    for target in targets:
        named = {name: module for name, module in modules.items() if f".{name}".endswith(f".{target}")}
        if not named:
            linear = sorted(
                {name.rpartition(".")[2] for name, m in modules.items() if isinstance(m, nn.Linear | Conv1D)}
            )
            raise ModelError(f"model.lora_targets: no layer is called '{target}'; linear ones are {', '.join(linear)}")
        for name, module in named.items():
            if not isinstance(module, nn.Linear | Conv1D):
                raise ModelError(f"model.lora_targets: '{name}' is no linear layer but {type(module).__name__}")
        found |= named
    return found
