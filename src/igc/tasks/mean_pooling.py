"""A text classifier as sentence encoders are used: encoder, mean over the tokens, one linear layer.

N. Reimers and I. Gurevych, "Sentence-BERT", EMNLP 2019: the mean over a text's tokens, padding left out. Importing
this module registers the classifier with `transformers`, so that ``AutoModelForSequenceClassification.from_pretrained``
reads what was saved.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class MeanPoolingConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of :class:`MeanPoolingClassifier`.

    Attributes:
        encoder: the encoder's configuration as a dictionary, ``model_type`` included.
    """

    model_type = "igc-mean-pooling"

    def __init__(self, encoder: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.encoder = encoder or {}


class MeanPoolingClassifier(PreTrainedModel):  # type: ignore[misc]
    """Encoder, masked mean, linear layer. The encoder's own pooler, where it has one, is left out as unused."""

    config_class = MeanPoolingConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True

    def __init__(self, config: MeanPoolingConfig) -> None:
        super().__init__(config)
        encoder = AutoConfig.for_model(**config.encoder)
        self.encoder = AutoModel.from_config(encoder, **without_pooler(encoder))
        self.classifier = nn.Linear(encoder.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_ignored: Any) -> SequenceClassifierOutput:
        """Logits of shape ``(batch, labels)``.

        Args:
            input_ids: shape ``(batch, tokens)``.
            attention_mask: the same shape, 1 at tokens and 0 at padding.
        """
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return SequenceClassifierOutput(logits=self.classifier(mean))


def without_pooler(encoder: Any) -> dict[str, bool]:
    """The argument that leaves the pooler out, for those encoders that know it."""
    parameters = inspect.signature(AutoModel._model_mapping[type(encoder)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


AutoConfig.register(MeanPoolingConfig.model_type, MeanPoolingConfig, exist_ok=True)
AutoModelForSequenceClassification.register(MeanPoolingConfig, MeanPoolingClassifier, exist_ok=True)
