"""Causal language modelling: blocks of text, next-token cross-entropy, perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from igc.errors import DataError, ModelError
from igc.tasks.base import Task
from igc.tasks.batching import by_length, device_of, pad
from igc.tasks.lora import add_lora_, without_lora
from igc.tasks.models import find_model, load_tokenizer, own_randomness, quiet, torch_dtype
from igc.tasks.settings import LanguageModellingSettings, ModelSettings

# Blocks at once: their logits are what takes memory, 65 tokens x 49,152 words x 4 bytes = 13 MB each for SmolLM2.
_EVALUATION_BATCH = 16
_NO_TARGET = -100

Block = list[int]


class LanguageModelling(Task):
    """Raw examples are lines (``str``), or openings (anything with ``text``); prepared ones are blocks of token ids."""

    name: ClassVar[str] = "language-modelling"
    metric_name: ClassVar[str] = "perplexity"
    higher_is_better: ClassVar[bool] = False

    def __init__(self, settings: LanguageModellingSettings, model: ModelSettings, seed: int) -> None:
        self.settings = settings
        self.source = model
        self.seed = seed
        self._files = find_model(model)
        self._dtype = torch_dtype(model)
        self.tokenizer = load_tokenizer(self._files)

    def model(self) -> nn.Module:
        """The pre-trained model, with LoRA layers if the settings ask for them.

        The seed matters only to these, and to weights that the source lacks.

        Raises:
            ModelError: the model cannot be loaded, or cannot read a whole block, or LoRA does not suit it.
        """
        with own_randomness(self.seed) as generator:
            model = self._files.load(AutoModelForCausalLM, dtype=self._dtype)
            add_lora_(model, self.source, model.config.model_type, (), generator)
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit is not None and self.settings.block_tokens - 1 > limit:
            raise ModelError(
                f"block_tokens = {self.settings.block_tokens}, but '{self._files.name}' reads at most {limit}"
            )
        loaded: nn.Module = model.eval()
        return loaded

    def prepare(self, raw: Sequence[Any]) -> list[Block]:
        r"""Cut texts into blocks of ``block_tokens``; a shorter last one is kept if it predicts anything.

        All lines are joined by ``\n`` into one text. An opening stands alone and gives its first block only. Special
        tokens are those that the tokenizer adds by itself.

        Returns:
            Blocks of 2 to ``block_tokens`` tokens; the empty list if the texts are too short for one.
        """
        lines = [text for text in raw if isinstance(text, str)]
        openings = [text.text for text in raw if not isinstance(text, str)]
        size = self.settings.block_tokens
        blocks: list[Block] = []
        if lines:
            tokens = self._tokens("\n".join(lines))
            blocks += [tokens[start : start + size] for start in range(0, len(tokens), size)]
        blocks += [self._tokens(opening)[:size] for opening in openings]
        return [block for block in blocks if len(block) >= 2]

    def _tokens(self, text: str) -> list[int]:
        with quiet():  # warns of texts longer than the model reads at once, which is why they are cut
            return list(self.tokenizer(text)["input_ids"])

    def loss(self, model: nn.Module, examples: Sequence[Block]) -> tuple[Tensor, int]:
        """Summed next-token cross-entropy in float32, and the number of tokens predicted."""
        tokens, mask = pad(examples, 0, device_of(model))
        # The last position predicts nothing: it is not even read. Blocks of one length need no mask, which saves time.
        inputs, targets = tokens[:, :-1], tokens[:, 1:].masked_fill(mask[:, 1:] == 0, _NO_TARGET)
        lengths = {len(block) for block in examples}
        logits = model(
            input_ids=inputs, attention_mask=mask[:, :-1] if len(lengths) > 1 else None, use_cache=False
        ).logits
        loss = functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=_NO_TARGET, reduction="sum"
        )
        return loss, self.count(examples)

    def count(self, examples: Sequence[Block]) -> int:
        """One prediction for each token but the first."""
        return sum(len(block) - 1 for block in examples)

    def length(self, example: Block) -> int:
        """Tokens."""
        return len(example)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, examples: Sequence[Block]) -> dict[str, float]:
        """Mean loss in nats a token, and perplexity, its exponential; infinite rather than too large for a float.

        Raises:
            DataError: there are no blocks.
        """
        if not examples:
            raise DataError("there are no blocks to evaluate on")
        total, count = 0.0, 0
        for batch in by_length(examples, len, _EVALUATION_BATCH):
            loss, predicted = self.loss(model, batch)
            total += loss.item()
            count += predicted
        mean = total / count
        return {"loss": mean, "perplexity": math.exp(mean) if mean < 700 else math.inf}

    @property
    def reads_merged(self) -> str:
        """A line of Python."""
        return "import transformers; transformers.AutoModelForCausalLM.from_pretrained(path)"

    def save_merged(self, model: nn.Module, folder: Path) -> None:
        """Write model, config and tokenizer."""
        with quiet():
            without_lora(model).save_pretrained(folder)  # type: ignore[operator]
            self.tokenizer.save_pretrained(folder)
