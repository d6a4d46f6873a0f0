"""LoRA layers: what is trained, where it begins, and what is left of them in an exported model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from pydantic import ValidationError
from torch import nn

import igc
from igc.errors import AdapterError, ModelError
from igc.projection import BlockedHadamard, Identity, Term, Theta
from igc.space import ParameterSpace
from igc.tasks import LanguageModellingSettings, ModelSettings, TextClassificationSettings, build_task
from igc.tasks.base import Task
from igc.tasks.lora import underlying

TEXTS = ["a charming journey", "it 's slow", "bleak", "a sometimes tedious film or doing taxes"]
MEAN = TextClassificationSettings(head="mean-pooling", max_tokens=16)
OWN = TextClassificationSettings(head="model", max_tokens=16)
BLOCKS = LanguageModellingSettings(block_tokens=9)
CASES: dict[str, tuple[str, Any, set[str]]] = {
    "bert, mean pooling": ("bert", MEAN, {"classifier.weight", "classifier.bias"}),
    "bert, own head": ("bert", OWN, {"classifier.weight", "classifier.bias"}),
    "gpt2, own head": ("gpt2", OWN, {"score.weight"}),
    "gpt2, language": ("gpt2", BLOCKS, set()),
    "llama, language": ("llama", BLOCKS, set()),
}
LAYERS = {"bert": {"query", "value"}, "gpt2": {"c_attn"}, "llama": {"q_proj", "v_proj"}}

Make = Callable[..., Task]


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def task(request: pytest.FixtureRequest, name: str) -> Make:
    model, settings, _ = CASES[name]
    source = str(request.getfixturevalue(model))

    def make(seed: int = 3, **lora: Any) -> Task:
        return build_task(settings, ModelSettings(source=source, **lora), seed)

    return make


def examples_of(task: Task) -> list[Any]:
    return task.prepare(TEXTS if task.name == "language-modelling" else [(t, i % 2) for i, t in enumerate(TEXTS)])


def shifted(model: nn.Module, seed: int = 0) -> tuple[ParameterSpace, list[Term]]:
    """Somewhere else in the subspace of a projection, with the terms that lead there."""
    space = ParameterSpace.of(model)
    projection = BlockedHadamard(D=space.D, d=16, seed=seed)
    sigma = 0.3 * torch.randn(16, generator=torch.Generator().manual_seed(seed))
    terms = [Term(projection, sigma)]
    Theta(space.parameters(model)).move_(terms)
    return space, terms


def test_only_lora_and_the_new_head_are_trained(task: Make, name: str) -> None:
    architecture, _, head = CASES[name]
    entries = ParameterSpace.of(task(lora_rank=2).model()).entries
    lora = [entry for entry in entries if ".lora_" in entry.name]
    # BERT's own head brings a pooler that the source lacks, too.
    assert head <= {entry.name for entry in entries} - {entry.name for entry in lora}
    assert all("pooler" in e.name for e in entries if e not in lora and e.name not in head)
    assert {entry.name.split(".lora_")[0].rpartition(".")[2] for entry in lora} == LAYERS[architecture]
    assert {2} == {min(entry.shape) for entry in lora}
    only_b = ParameterSpace.of(task(lora_rank=2, lora_freeze_a=True).model()).entries
    assert [e.name for e in only_b] == [e.name for e in entries if ".lora_A." not in e.name]


def test_training_begins_at_the_model_itself_the_same_for_everyone(task: Make) -> None:
    torch.manual_seed(1)
    plain, one = task(), task(lora_rank=2).model()
    torch.manual_seed(2)
    two, other = task(lora_rank=2).model(), task(seed=4, lora_rank=2).model()
    assert torch.initial_seed() == 2
    examples = examples_of(plain)
    with torch.no_grad():
        right, found = plain.loss(plain.model(), examples)[0], plain.loss(one, examples)[0]
    torch.testing.assert_close(found, right)
    a, b, c = dict(one.named_parameters()), dict(two.named_parameters()), dict(other.named_parameters())
    assert all(torch.equal(a[key], b[key]) for key in a)
    drawn = [key for key in a if ".lora_A." in key]
    assert drawn
    assert not any(torch.equal(a[key], c[key]) for key in drawn)
    for key in drawn:  # uniform with standard deviation 1 / sqrt(3 in)
        assert float(a[key].detach().std()) * (3 * a[key].shape[1]) ** 0.5 == pytest.approx(1, abs=0.35)


def test_gradients_flow_to_lora_alone(task: Make) -> None:
    made = task(lora_rank=2)
    model = made.model()
    loss, _ = made.loss(model, examples_of(made))
    torch.autograd.backward(loss)
    trained = {entry.name for entry in ParameterSpace.of(model).entries}
    assert {key for key, p in model.named_parameters() if p.grad is not None} == trained


def test_a_merged_model_is_plain_and_says_the_same(task: Make, tmp_path: Path, name: str) -> None:
    made = task(lora_rank=2, lora_alpha=6)
    model = made.model()
    untrained = made.evaluate(model, examples_of(made))
    shifted(model)
    trained = made.evaluate(model, examples_of(made))
    assert abs(trained["loss"] - untrained["loss"]) > 1e-3
    made.save_merged(model, tmp_path)
    assert made.evaluate(model, examples_of(made)) == trained  # the model itself goes on as it was
    classifies = made.name == "text-classification"
    auto = transformers.AutoModelForSequenceClassification if classifies else transformers.AutoModelForCausalLM
    loaded = auto.from_pretrained(tmp_path).eval()
    assert not any("lora" in key for key, _ in loaded.named_parameters())
    # Tied weights once: what a full copy of the model holds.
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in underlying(model))
    assert made.evaluate(loaded, examples_of(made)) == pytest.approx(trained, rel=1e-4)


def test_an_adapter_loads_onto_a_model_made_the_same_way(task: Make, tmp_path: Path) -> None:
    made = task(lora_rank=2)
    model = made.model()
    space, terms = shifted(model)
    igc.save_adapter(tmp_path / "adapter.safetensors", terms, space)
    again = igc.load_adapter(task(lora_rank=2).model(), tmp_path / "adapter.safetensors")
    assert made.evaluate(again, examples_of(made)) == made.evaluate(model, examples_of(made))
    with pytest.raises(AdapterError, match="made for parameter space"):
        igc.load_adapter(task(lora_rank=3).model(), tmp_path / "adapter.safetensors")


def test_what_an_uncompressed_method_trained_can_be_an_adapter_too(bert: Path, tmp_path: Path) -> None:
    made = build_task(MEAN, ModelSettings(source=str(bert), lora_rank=2), 3)
    model = made.model()
    space = ParameterSpace.of(model)
    terms = [Term(Identity(D=space.D, d=space.D, seed=0), torch.randn(space.D, generator=torch.Generator()))]
    Theta(space.parameters(model)).move_(terms)
    with pytest.raises(AdapterError, match="no adapter: this method keeps no small state"):
        igc.save_adapter(tmp_path / "a", terms, space)
    igc.save_adapter(tmp_path / "a", terms, space, dense=True)
    again = igc.load_adapter(made.model(), tmp_path / "a")
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks transformers for it
def test_what_is_added_is_lora_as_peft_computes_it(llama: Path) -> None:
    """The loss of PEFT's own model, built by its front door, at our A and B."""
    made = build_task(BLOCKS, ModelSettings(source=str(llama), lora_rank=2, lora_alpha=6), seed=3)
    ours = made.model()
    shifted(ours)
    plain = build_task(BLOCKS, ModelSettings(source=str(llama)), seed=3).model()
    config = peft.LoraConfig(r=2, lora_alpha=6, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(plain, config).eval()
    values = {f"base_model.model.{key}": value for key, value in ours.named_parameters()}
    assert {key for key, p in theirs.named_parameters() if p.requires_grad} <= values.keys()
    theirs.load_state_dict(values, strict=False)
    examples = examples_of(made)
    with torch.no_grad():
        torch.testing.assert_close(made.loss(ours, examples)[0], made.loss(theirs, examples)[0])


def test_targets_choose_layers(bert: Path) -> None:
    def names(*targets: str) -> set[str]:
        model = build_task(MEAN, ModelSettings(source=str(bert), lora_rank=2, lora_targets=targets), 3).model()
        return {e.name.split(".lora_")[0] for e in ParameterSpace.of(model).entries if ".lora_" in e.name}

    assert names("key") == {f"encoder.encoder.layer.{i}.attention.self.key" for i in (0, 1)}
    assert names("0.attention.self.key", "1.intermediate.dense") == {
        "encoder.encoder.layer.0.attention.self.key",
        "encoder.encoder.layer.1.intermediate.dense",
    }
    with pytest.raises(ModelError, match=r"no layer is called 'q_proj'; linear ones are .*query"):
        names("q_proj")
    with pytest.raises(ModelError, match=r"is no linear layer but Embedding"):
        names("word_embeddings")


def test_an_architecture_that_peft_does_not_know_needs_targets(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, "bert")
    with pytest.raises(ModelError, match=r"architecture 'bert'; name some in model\.lora_targets"):
        build_task(MEAN, ModelSettings(source=str(bert), lora_rank=2), 3).model()


def test_without_peft_it_says_what_to_install(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'intrinsic-gradient-compression\[lora\]'"):
        build_task(MEAN, ModelSettings(source=str(bert), lora_rank=2), 3).model()


@pytest.mark.parametrize("key", [{"lora_alpha": 8}, {"lora_targets": ["query"]}, {"lora_freeze_a": True}])
def test_settings_of_lora_mean_nothing_without_a_rank(key: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="means nothing without lora_rank"):
        ModelSettings.model_validate({"source": "x", **key})
    assert ModelSettings(source="x").model_dump() == {"source": "x", "dtype": "float32"}
    settings = ModelSettings.model_validate({"source": "x", "lora_rank": 4, **key})
    assert ModelSettings.model_validate(settings.model_dump(exclude_none=True)) == settings
