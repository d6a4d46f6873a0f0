"""A recipe that trains in seconds: a tiny BERT, a tiny vocabulary, a CSV file; all of it real formats."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import tomli_w
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

GOOD = ["good", "great", "fine", "lovely", "superb", "moving", "bright", "warm"]
BAD = ["bad", "awful", "dull", "weak", "broken", "clumsy", "cold", "stale"]
FILLER = ["the", "a", "film", "plot", "actor", "scene", "music", "story", "was", "is", "and", "very", "quite"]


def write_model(folder: Path) -> Path:
    """A BERT of some 20,000 parameters with a word-level tokenizer, as `from_pretrained` reads it."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *GOOD, *BAD, *FILLER]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def write_data(path: Path, rows: int = 240, seed: int = 0) -> Path:
    """A CSV of labelled sentences, each with two telling words."""
    draw = random.Random(seed)
    lines = ["text,label"]
    for i in range(rows):
        words = draw.choices(FILLER, k=5) + draw.choices(GOOD if i % 2 else BAD, k=2)
        draw.shuffle(words)
        lines.append(f"{' '.join(words)},{i % 2}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_recipe(folder: Path, **sections: Any) -> Path:
    """``tiny.toml`` with its model and data beside it; ``sections`` change or add settings."""
    folder.mkdir(parents=True, exist_ok=True)
    tree: dict[str, Any] = {
        "title": "Tiny",
        "seed": 5,
        "device": "cpu",
        "task": {"name": "text-classification", "max_tokens": 16},
        "model": {"source": str(write_model(folder / "model"))},
        "data": {
            "source": "text-classification-file",
            "path": str(write_data(folder / "data.csv")),
            "partition": "iid",
            "clients": 12,
            "options": {"test": 60, "validation": 20},
        },
        "method": {"name": "static", "dim": 64},
        "optimizer": {"name": "adam", "learning_rate": 0.02},
        "federation": {"rounds": 12, "clients_per_round": 4, "batch_size": 6},
        "evaluation": {"every": 4},
        "checkpoint": {"every": 3},
    }
    for name, values in sections.items():
        if isinstance(values, dict):
            tree[name] = {**tree.get(name, {}), **values}
        else:
            tree[name] = values
    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps(tree))
    return path
