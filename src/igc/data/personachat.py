"""PersonaChat: dialogues of people who were each given a persona; the paper's language modelling, one client a persona.

S. Zhang et al., "Personalizing dialogue agents", ACL 2018, in the file ``personachat_self_original.json`` that Hugging
Face's transfer-learning-conv-ai distributes::

    {"train": [{"personality": ["i like ...", ...],
                "utterances": [{"history": ["hello", ...], "candidates": [..., "the true reply"]}, ...]}, ...],
     "valid": [...]}

Histories grow by two: the last utterance holds the whole dialogue, and the last candidate is the true reply to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from igc.data.base import Source, Text
from igc.data.tables import parse_json, read_text
from igc.errors import DataError


class PersonaChatOptions(BaseModel):
    """What of the validation dialogues is evaluated on.

    Attributes:
        validation_dialogues: at most this many, drawn at random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation_dialogues: int = Field(default=100, ge=1)


def load_personachat(path: Path | None, options: PersonaChatOptions, rng: np.random.Generator) -> Source[Text]:
    """Load the dialogues: an example is one dialogue, the persona's sentences first, then every turn on its own line.

    Dialogues with the same persona, in whatever order its sentences stand, belong to one client, ``"persona-0001"`` and
    so on, by first appearance.

    Raises:
        DataError: the file is missing or not in this format; says where in it.
    """
    if path is None:
        raise DataError("source 'personachat' needs a path to personachat_self_original.json")
    content = parse_json(read_text(path), str(path))
    train = _dialogues(content, "train", path)
    valid = _dialogues(content, "valid", path)
    names: dict[frozenset[str], str] = {}
    owners = [names.setdefault(persona, f"persona-{len(names) + 1:04d}") for persona, _ in train]
    chosen = np.sort(rng.permutation(len(valid))[: options.validation_dialogues])
    return Source([text for _, text in train], owners, {"validation": [valid[i][1] for i in chosen]})


def _dialogues(content: Any, split: str, file: Path) -> list[tuple[frozenset[str], str]]:
    dialogues = content.get(split) if isinstance(content, dict) else None
    if not isinstance(dialogues, list) or not dialogues:
        raise DataError(f"{file}: expected a list of dialogues under '{split}'")
    found = []
    for number, dialogue in enumerate(dialogues):
        try:
            persona = [str(sentence) for sentence in dialogue["personality"]]
            last = dialogue["utterances"][-1]
            turns = [*last["history"], last["candidates"][-1]]
            found.append((frozenset(persona), "\n".join([*persona, *turns])))
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(
                f"{file}: {split}[{number}] is not a dialogue with 'personality' and 'utterances' of 'history' and "
                f"'candidates' ({type(error).__name__}: {error})"
            ) from error
    return found
