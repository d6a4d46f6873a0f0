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
    """What is evaluated on.

    Attributes:
        validation_personas: personas of the training dialogues that are never trained on, drawn at random; all of their
            dialogues are evaluated on.
        test_dialogues: at most this many of the dialogues under ``valid``, drawn at random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation_personas: int = Field(default=10, ge=0)
    test_dialogues: int = Field(default=100, ge=1)


def load_personachat(path: Path | None, options: PersonaChatOptions, rng: np.random.Generator) -> Source[Text]:
    """Load the dialogues: an example is one dialogue, the persona's sentences first, then every turn on its own line.

    Dialogues with the same persona, in whatever order its sentences stand, belong to one client, ``"persona-0001"`` and
    so on, by first appearance. The split ``"test"`` is of the dialogues under ``valid``, whose personas are other ones;
    so ``"validation"`` is of whole personas, too.

    Raises:
        DataError: the file is missing or not in this format, and where in it; or no persona is left to train on.
    """
    if path is None:
        raise DataError("source 'personachat' needs a path to personachat_self_original.json")
    content = parse_json(read_text(path), str(path))
    train = _dialogues(content, "train", path)
    valid = _dialogues(content, "valid", path)
    names: dict[frozenset[str], str] = {}
    owners = [names.setdefault(persona, f"persona-{len(names) + 1:04d}") for persona, _ in train]
    tested = np.sort(rng.permutation(len(valid))[: options.test_dialogues])
    if options.validation_personas >= len(names):
        raise DataError(
            f"{path}: {len(names)} personas leave none to train on after validation_personas ="
            f" {options.validation_personas}; lower that under [data.options]"
        )
    personas = list(names.values())
    held_out = {personas[i] for i in rng.permutation(len(personas))[: options.validation_personas]}
    kept = [i for i, owner in enumerate(owners) if owner not in held_out]
    validation = [text for (_, text), owner in zip(train, owners, strict=True) if owner in held_out]
    return Source(
        [train[i][1] for i in kept],
        [owners[i] for i in kept],
        {**({"validation": validation} if validation else {}), "test": [valid[i][1] for i in tested]},
    )


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
