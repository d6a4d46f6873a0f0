"""Tiny random models of real architectures, each a folder in Hugging Face's format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

SENTENCES = [
    "a charming and often affecting journey",
    "unflinchingly bleak and desperate",
    "the acting , costumes , music and cinematography are all astounding",
    "it 's slow -- very , very slow",
    "a sometimes tedious film",
    "or doing last year 's taxes with your ex-wife",
]


def wordpiece() -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def byte_pairs() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def save(folder: Path, model_class: Any, config: Any, tokenizer: Any) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of BERT's architecture, without a classification head."""
    tokenizer = wordpiece()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    return save(tmp_path_factory.mktemp("models") / "bert", transformers.BertModel, config, tokenizer)


@pytest.fixture(scope="session")
def roberta(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `bert`, but positions are numbered from behind the padding's."""
    config = transformers.RobertaConfig(**transformers.BertConfig.from_pretrained(bert).to_dict())
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    return save(tmp_path_factory.mktemp("models") / "roberta", transformers.RobertaModel, config, tokenizer)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = byte_pairs()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=32, eos_token_id=0, bos_token_id=0
    )
    return save(tmp_path_factory.mktemp("models") / "gpt2", transformers.GPT2LMHeadModel, config, tokenizer)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = byte_pairs()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    return save(tmp_path_factory.mktemp("models") / "llama", transformers.LlamaForCausalLM, config, tokenizer)


Gradients = Callable[[Any, torch.nn.Module, list[Any]], tuple[float, int, torch.Tensor]]


@pytest.fixture
def gradients() -> Gradients:
    """Summed loss, count and flat gradient of one batch."""

    def compute(task: Any, model: torch.nn.Module, examples: list[Any]) -> tuple[float, int, torch.Tensor]:
        model.zero_grad()
        loss, count = task.loss(model, examples)
        loss.backward()
        flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
        return loss.item(), count, flat

    return compute
