"""Text classification: a pre-trained encoder with a classification head, cross-entropy, accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from igc.errors import DataError, ModelError
from igc.tasks.base import Task
from igc.tasks.batching import by_length, device_of, pad
from igc.tasks.lora import add_lora_, without_lora
from igc.tasks.mean_pooling import MeanPoolingClassifier, MeanPoolingConfig, without_pooler
from igc.tasks.models import draw_missing_, find_model, load_tokenizer, own_randomness, quiet, torch_dtype
from igc.tasks.settings import ModelSettings, TextClassificationSettings

_EVALUATION_BATCH = 128


class LabelledTokens(NamedTuple):
    """A prepared example."""

    tokens: list[int]
    label: int


class TextClassification(Task):
    """Raw examples are pairs ``(text, label)``; prepared ones are :class:`LabelledTokens`."""

    name: ClassVar[str] = "text-classification"
    metric_name: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def __init__(self, settings: TextClassificationSettings, model: ModelSettings, seed: int) -> None:
        self.settings = settings
        self.source = model
        self.seed = seed
        self._files = find_model(model)
        self._dtype = torch_dtype(model)
        self.tokenizer = load_tokenizer(self._files)
        if self.tokenizer.pad_token_id is None:  # GPT-2, for instance, was trained without padding
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._padding: int = self.tokenizer.pad_token_id or 0

    def model(self) -> nn.Module:
        """The pre-trained encoder with a head drawn from the task's seed, and LoRA layers if the settings ask for them.

        Raises:
            ModelError: the model cannot be loaded, reads fewer tokens than ``max_tokens``, or LoRA does not suit it.
        """
        build = self._mean_pooling if self.settings.head == "mean-pooling" else self._own_head
        with own_randomness(self.seed) as generator:
            model, missing = build()
            draw_missing_(model, missing, generator)
            add_lora_(model, self.source, _architecture(model), missing, generator)
        _check_length(model, self.settings.max_tokens, self._files.name)
        model.config.pad_token_id = self._padding
        built: nn.Module = model.eval()
        return built

    def _mean_pooling(self) -> tuple[Any, list[str]]:
        config = self._files.load(AutoConfig)
        encoder = self._files.load(AutoModel, dtype=self._dtype, **without_pooler(config))
        with quiet():
            model = MeanPoolingClassifier(
                MeanPoolingConfig(encoder=encoder.config.to_dict(), num_labels=self.settings.labels, dtype=self._dtype)
            ).to(self._dtype)
        model.encoder.load_state_dict(encoder.state_dict())
        return model, ["classifier.weight", "classifier.bias"]

    def _own_head(self) -> tuple[Any, list[str]]:
        model, report = self._files.load(
            AutoModelForSequenceClassification,
            dtype=self._dtype,
            num_labels=self.settings.labels,
            output_loading_info=True,
        )
        return model, list(report["missing_keys"])

    def prepare(self, raw: Sequence[Any]) -> list[LabelledTokens]:
        """Tokenise pairs ``(text, label)``.

        Raises:
            DataError: a label is not one of ``0 .. labels - 1``.
        """
        if not raw:
            return []
        texts, labels = zip(*raw, strict=True)
        wrong = next((label for label in labels if not 0 <= label < self.settings.labels), None)
        if wrong is not None:
            raise DataError(f"label {wrong} does not fit a task with labels = {self.settings.labels}")
        tokens = self.tokenizer(list(texts), truncation=True, max_length=self.settings.max_tokens)["input_ids"]
        return [LabelledTokens(ids, label) for ids, label in zip(tokens, labels, strict=True)]

    def loss(self, model: nn.Module, examples: Sequence[LabelledTokens]) -> tuple[Tensor, int]:
        """Summed cross-entropy in float32, and the number of examples."""
        logits, labels = self._logits(model, examples)
        return functional.cross_entropy(logits, labels, reduction="sum"), len(examples)

    def count(self, examples: Sequence[LabelledTokens]) -> int:
        """One prediction an example."""
        return len(examples)

    def length(self, example: LabelledTokens) -> int:
        """Tokens."""
        return len(example.tokens)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, examples: Sequence[LabelledTokens]) -> dict[str, float]:
        """Mean cross-entropy and accuracy.

        Raises:
            DataError: there are no examples.
        """
        if not examples:
            raise DataError("there are no examples to evaluate on")
        loss, right = 0.0, 0
        for batch in by_length(examples, lambda example: len(example.tokens), _EVALUATION_BATCH):
            logits, labels = self._logits(model, batch)
            loss += functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(-1) == labels).sum())
        return {"loss": loss / len(examples), "accuracy": right / len(examples)}

    @property
    def reads_merged(self) -> str:
        """A line of Python; transformers know the head ``mean-pooling`` from us alone."""
        modules = "transformers, igc.tasks.mean_pooling" if self.settings.head == "mean-pooling" else "transformers"
        return f"import {modules}; transformers.AutoModelForSequenceClassification.from_pretrained(path)"

    def save_merged(self, model: nn.Module, folder: Path) -> None:
        """Write model, config and tokenizer."""
        with quiet():
            without_lora(model).save_pretrained(folder)  # type: ignore[operator]
            self.tokenizer.save_pretrained(folder)

    def _logits(self, model: nn.Module, examples: Sequence[LabelledTokens]) -> tuple[Tensor, Tensor]:
        """Logits ``(batch, labels)`` in float32, and labels ``(batch,)``, on the model's device."""
        device = device_of(model)
        tokens, mask = pad([example.tokens for example in examples], self._padding, device)
        labels = torch.tensor([example.label for example in examples], device=device)
        return model(input_ids=tokens, attention_mask=mask).logits.float(), labels


def _check_length(model: Any, tokens: int, name: str) -> None:
    config = model.config
    limit = config.encoder.get("max_position_embeddings") if isinstance(config, MeanPoolingConfig) else None
    limit = limit or getattr(config, "max_position_embeddings", None)
    if limit is None:
        return
    for place, module in model.named_modules():  # RoBERTa and its kin number positions from behind the padding's
        if place.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limit -= module.padding_idx + 1
            break
    if tokens > limit:
        raise ModelError(f"max_tokens = {tokens}, but '{name}' reads at most {limit}; set task.max_tokens to that")


def _architecture(model: Any) -> str:
    config = model.config
    return str(config.encoder["model_type"] if isinstance(config, MeanPoolingConfig) else config.model_type)
