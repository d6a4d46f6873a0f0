"""What holds for every task over texts, on every architecture; images have test_image_classification.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers

from igc.data import DataSettings, load_dataset
from igc.tasks import (
    TASKS,
    LanguageModellingSettings,
    ModelSettings,
    TextClassificationSettings,
    build_task,
)
from igc.tasks.base import Task

Gradients = Callable[[Any, torch.nn.Module, list[Any]], tuple[float, int, torch.Tensor]]

TEXTS = [
    "a charming journey",
    "it 's slow",
    "the acting , costumes , music and cinematography are all astounding and very , very desperate",
    "bleak",
    "a sometimes tedious film or doing taxes",
]
MEAN = TextClassificationSettings(head="mean-pooling", max_tokens=16)
OWN = TextClassificationSettings(head="model", max_tokens=16)
BLOCKS = LanguageModellingSettings(block_tokens=9)


class Case(NamedTuple):
    task: Task
    examples: list[Any]


CASES: dict[str, tuple[str, TextClassificationSettings | LanguageModellingSettings]] = {
    "bert, mean pooling": ("bert", MEAN),
    "bert, own head": ("bert", OWN),
    "gpt2, own head": ("gpt2", OWN),
    "gpt2, language": ("gpt2", BLOCKS),
    "llama, language": ("llama", BLOCKS),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    name, settings = CASES[request.param]
    task = build_task(settings, ModelSettings(source=str(request.getfixturevalue(name))), seed=3)
    raw: list[Any] = list(TEXTS)
    if isinstance(settings, TextClassificationSettings):
        raw = [(text, i % 2) for i, text in enumerate(TEXTS)]
    return Case(task, task.prepare(raw))


def test_every_task_is_covered() -> None:
    assert {settings.name for _, settings in CASES.values()} == set(TASKS) - {"image-classification"}


def test_the_model_is_the_same_on_every_call_and_draws_nothing_global(case: Case) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one = case.task.model()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    two = case.task.model()
    assert not one.training
    assert {name: p.shape for name, p in one.named_parameters()} == {
        name: p.shape for name, p in two.named_parameters()
    }
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_micro_batches_add_up_to_the_batch(case: Case, gradients: Gradients) -> None:
    model = case.task.model().double()
    loss, count, whole = gradients(case.task, model, case.examples)
    parts = [gradients(case.task, model, case.examples[start : start + 2]) for start in range(0, len(case.examples), 2)]
    assert len(parts) > 1
    assert sum(part[1] for part in parts) == count
    assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-6)
    total = torch.stack([part[2] for part in parts]).sum(0)
    # losses are taken in float32 whatever the model's precision, so that is what the sum is exact to
    assert torch.linalg.vector_norm(total - whole) <= 1e-5 * torch.linalg.vector_norm(whole)


def test_padding_changes_nothing(case: Case) -> None:
    model = case.task.model()
    lengths = {len(example.tokens if hasattr(example, "tokens") else example) for example in case.examples}
    assert len(lengths) > 1
    together, count = case.task.loss(model, case.examples)
    alone = [case.task.loss(model, [example]) for example in case.examples]
    assert count == sum(n for _, n in alone)
    assert together.item() == pytest.approx(sum(loss.item() for loss, _ in alone), rel=1e-5)


def test_every_parameter_is_trained(case: Case, gradients: Gradients) -> None:
    model = case.task.model()
    gradients(case.task, model, case.examples)
    dead = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    # BERT's own head sits on its pooler; with mean pooling that is left out
    assert dead == []


def test_evaluation_is_the_mean_loss_and_leaves_no_gradient(case: Case) -> None:
    model = case.task.model()
    metrics = case.task.evaluate(model, case.examples)
    loss, count = case.task.loss(model, case.examples)
    assert metrics["loss"] == pytest.approx(loss.item() / count, rel=1e-5)
    assert case.task.metric_name in metrics
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_saved_model_reads_back_the_same(case: Case, tmp_path: Path) -> None:
    model = case.task.model()
    with torch.no_grad():
        for parameter in model.parameters():  # away from theta_0, as training would
            parameter.add_(0.01)
    case.task.save_merged(model, tmp_path)
    auto = {
        "text-classification": transformers.AutoModelForSequenceClassification,
        "language-modelling": transformers.AutoModelForCausalLM,
    }[case.task.name]
    again = auto.from_pretrained(tmp_path).eval()
    assert case.task.evaluate(again, case.examples) == case.task.evaluate(model, case.examples)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(TEXTS)["input_ids"] == case.task.tokenizer(TEXTS)["input_ids"]  # type: ignore[attr-defined]


def test_weights_are_held_in_the_type_asked_for(bert: Path, gpt2: Path) -> None:
    for folder, settings in ((bert, MEAN), (bert, OWN), (gpt2, BLOCKS)):
        task = build_task(settings, ModelSettings(source=str(folder), dtype="bfloat16"), seed=0)
        model = task.model()
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        raw: list[Any] = TEXTS if settings is BLOCKS else [(text, 0) for text in TEXTS]
        loss, _ = task.loss(model, task.prepare(raw))
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)


def sgd(task: Task, batches: list[list[Any]]) -> tuple[float, float]:
    """Mean loss over all batches before and after a few steps."""
    model = task.model()
    everything = [example for batch in batches for example in batch]
    before = task.evaluate(model, everything)["loss"]
    for _ in range(20):
        for batch in batches:
            model.zero_grad()
            loss, count = task.loss(model, batch)
            (loss / count).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(0.1 * parameter.grad)
    return before, task.evaluate(model, everything)["loss"]


def test_sst2_on_bert_learns(bert: Path, tmp_path: Path) -> None:
    rows = "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(TEXTS))
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text(f"sentence\tlabel\n{rows}")
    data = load_dataset(DataSettings(source="sst2", path=tmp_path, clients=2, options={"validation": 0}), 0)
    task = build_task(OWN, ModelSettings(source=str(bert)), seed=0)
    before, after = sgd(task, [task.prepare(raw) for raw in data.clients.values()])
    assert after < before


def test_personachat_on_gpt2_learns(gpt2: Path, tmp_path: Path) -> None:
    def dialogue(text: str) -> str:
        return f'{{"personality": ["{text}"], "utterances": [{{"history": ["slow ?"], "candidates": ["no", "very"]}}]}}'

    file = tmp_path / "personachat_self_original.json"
    file.write_text(f'{{"train": [{dialogue("a film")}, {dialogue("taxes")}], "valid": [{dialogue("bleak")}]}}')
    data = load_dataset(DataSettings(source="personachat", path=file, options={"validation_personas": 0}), 0)
    task = build_task(BLOCKS, ModelSettings(source=str(gpt2)), seed=0)
    before, after = sgd(task, [task.prepare(raw) for raw in data.clients.values()])
    assert after < before
