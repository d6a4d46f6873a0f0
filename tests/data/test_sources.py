import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from igc.data import DataSettings, FederatedDataset, LabelledText, Opening, load_dataset
from igc.data.load import load_own
from igc.errors import DataError
from igc.fetch import fetch
from igc.fetch.packages import VADER_SENTIMENT

NO_SPLITS = {"validation": 0, "test": 0}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# Movie reviews


def ratings(path: Path) -> Path:
    rows = [
        f"{i}\t{rating}\t{text}" for i, (rating, text) in enumerate([(2, "good"), (-1.5, '"bad"'), (0.5, "so so")], 1)
    ]
    return write(path / "ratings.txt", "\r\n".join(rows))


def test_movie_reviews_are_labelled_by_the_sign_and_neutral_ones_left_out(tmp_path: Path) -> None:
    settings = DataSettings(source="movie-reviews", path=ratings(tmp_path), clients=1, options=NO_SPLITS)
    assert load_dataset(settings, 0).clients == {"client-0": [LabelledText("good", 1), LabelledText('"bad"', 0)]}


@pytest.mark.parametrize("row", ["3\t1.0", "3\tx\ttext", "3\tnan\ttext", "3\t1.0\t ", "3\t1.0\ta\tb", ""])
def test_a_malformed_row_is_named(row: str, tmp_path: Path) -> None:
    file = write(tmp_path / "ratings.txt", f"1\t2.0\tgood\n{row}\n3\t1.0\tlast\n")
    with pytest.raises(DataError, match=r"ratings.txt, line 2: expected number, rating and sentence"):
        load_dataset(DataSettings(source="movie-reviews", path=file, clients=1, options=NO_SPLITS), 0)


@pytest.mark.data
def test_movie_reviews_count_what_a_regular_expression_counts() -> None:
    content = (fetch(VADER_SENTIMENT) / "movieReviewSnippets_GroundTruth.txt").read_bytes()
    found = [float(value) for value in re.findall(rb"^\d+\t(-?[\d.]+)\t", content, re.MULTILINE)]
    assert len(found) == 10_605  # as its authors state
    settings = DataSettings(source="movie-reviews", clients=100)
    data = load_dataset(settings, 0)
    everything = [example for part in [*data.clients.values(), *data.evaluation.values()] for example in part]
    assert {name: len(split) for name, split in data.evaluation.items()} == {"test": 1000, "validation": 1000}
    assert sum(example.label for example in everything) == sum(value > 0.5 for value in found) == 4982
    assert len(everything) == sum(abs(value) > 0.5 for value in found) == 4982 + 5061
    assert {len(part) for part in data.clients.values()} == {80, 81}


# SST-2


def sst2(folder: Path) -> Path:
    header = "sentence\tlabel\n"
    write(folder / "train.tsv", header + 'a "quoted\t1\nhide new secretions \t0\nfine\t1\n')
    write(folder / "dev.tsv", header + "it 's a charming journey . \t1\n")
    return folder


def test_sst2_reads_glue_files(tmp_path: Path) -> None:
    settings = DataSettings(source="sst2", path=sst2(tmp_path), clients=1, options={"validation": 0})
    data = load_dataset(settings, 0)
    assert data.clients["client-0"] == [('a "quoted', 1), ("hide new secretions", 0), ("fine", 1)]
    assert data.evaluation == {"test": [("it 's a charming journey .", 1)]}


def test_sst2_chooses_on_sentences_of_the_training_set_and_reports_the_published_ones(tmp_path: Path) -> None:
    def load(seed: int) -> FederatedDataset[Any]:
        settings = DataSettings(source="sst2", path=sst2(tmp_path), clients=2, options={"validation": 1})
        return load_dataset(settings, seed)

    chosen = set()
    for seed in range(20):
        data = load(seed)
        assert data == load(seed)
        trained = [example for part in data.clients.values() for example in part]
        assert sorted([*trained, *data.evaluation["validation"]]) == sorted(
            [('a "quoted', 1), ("hide new secretions", 0), ("fine", 1)]
        )
        assert data.evaluation["test"] == [("it 's a charming journey .", 1)]
        chosen |= set(data.evaluation["validation"])
    assert len(chosen) == 3


def test_sst2_that_is_all_held_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 examples leave none to train on after 1000 for validation and test"):
        load_dataset(DataSettings(source="sst2", path=sst2(tmp_path), clients=1), 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence\tlabel\nfine\t2\n", r"train.tsv, line 2: label must be 0 or 1, not '2'"),
        ("sentence\tlabel\nfine\n", r"train.tsv, line 2: expected 2 columns \(sentence, label\), found 1"),
        ("index\tsentence\n0\tfine\n", r"train.tsv, line 2: column 'label' is missing"),
        ("sentence\tlabel\n", r"train.tsv has no rows"),
    ],
)
def test_sst2_faults_name_file_and_line(content: str, message: str, tmp_path: Path) -> None:
    write(sst2(tmp_path) / "train.tsv", content)
    with pytest.raises(DataError, match=message):
        load_dataset(DataSettings(source="sst2", path=tmp_path, clients=1), 0)


def test_sst2_without_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*train.tsv"):
        load_dataset(DataSettings(source="sst2", path=tmp_path, clients=1), 0)


def test_sst2_from_the_hub_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'intrinsic-gradient-compression\[hub\]'"):
        load_dataset(DataSettings(source="sst2", clients=1), 0)


def test_sst2_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        @staticmethod
        def load_dataset(name: str) -> dict[str, list[dict[str, object]]]:
            assert name == "stanfordnlp/sst2"
            row: dict[str, object] = {"idx": 0, "sentence": "fine ", "label": 1}
            return {"train": [row, row], "validation": [row]}

    monkeypatch.setitem(sys.modules, "datasets", Hub)
    data = load_dataset(DataSettings(source="sst2", clients=1, options={"validation": 1}), 0)
    assert data.clients == {"client-0": [LabelledText("fine", 1)]}
    assert data.evaluation == {"validation": [LabelledText("fine", 1)], "test": [LabelledText("fine", 1)]}

    def unreachable(name: str) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(Hub, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"cannot load 'stanfordnlp/sst2' .*\(no route\); set path"):
        load_dataset(DataSettings(source="sst2", clients=1), 0)


# PersonaChat


def dialogue(personality: list[str], *turns: str) -> dict[str, Any]:
    """A dialogue as the file has it: one utterance for each reply of the persona."""
    return {
        "personality": personality,
        "utterances": [
            {"candidates": ["wrong", turns[i]], "history": list(turns[:i])} for i in range(1, len(turns), 2)
        ],
    }


def personachat(folder: Path, **changes: Any) -> Path:
    ana, bo = ["i am ana .", "i ski ."], ["i am bo ."]
    content = {
        "train": [
            dialogue(ana, "hi", "hello , i ski", "why ?", "fun"),
            dialogue(bo, "who ?", "bo"),
            dialogue(ana[::-1], "hey", "ho"),
        ],
        "valid": [dialogue(["i am cy ."], "name ?", "cy")],
    }
    return write(folder / "personachat_self_original.json", json.dumps(content | changes))


def test_personachat_has_one_client_a_persona(tmp_path: Path) -> None:
    settings = DataSettings(source="personachat", path=personachat(tmp_path), options={"validation_personas": 0})
    data = load_dataset(settings, 0)
    assert data.clients == {
        "persona-0001": ["i am ana .\ni ski .\nhi\nhello , i ski\nwhy ?\nfun", "i ski .\ni am ana .\nhey\nho"],
        "persona-0002": ["i am bo .\nwho ?\nbo"],
    }
    assert data.evaluation == {"test": ["i am cy .\nname ?\ncy"]}


def test_personachat_chooses_on_personas_that_are_never_trained_on(tmp_path: Path) -> None:
    def load(validation_personas: int, seed: int) -> FederatedDataset[Any]:
        options = {"validation_personas": validation_personas}
        return load_dataset(DataSettings(source="personachat", path=personachat(tmp_path), options=options), seed)

    whole = load(0, 0)
    held_out = set()
    for seed in range(10):
        data = load(1, seed)
        assert data == load(1, seed)
        [persona] = whole.clients.keys() - data.clients.keys()
        assert {**data.clients, persona: data.evaluation["validation"]} == whole.clients
        assert data.evaluation["test"] == whole.evaluation["test"]
        held_out.add(persona)
    assert held_out == whole.clients.keys()
    with pytest.raises(DataError, match="2 personas leave none to train on after validation_personas = 2; lower that"):
        load(2, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid": []}, "expected a list of dialogues under 'valid'"),
        ({"train": [{"personality": ["x"]}]}, r"train\[0\] is not a dialogue .*KeyError: 'utterances'"),
        ({"train": [{"personality": ["x"], "utterances": []}]}, r"train\[0\] is not a dialogue .*IndexError"),
        ({"train": ["x"]}, r"train\[0\] is not a dialogue"),
    ],
)
def test_personachat_faults_say_where(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(DataSettings(source="personachat", path=personachat(tmp_path, **changes)), 0)


def test_personachat_that_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not valid JSON"):
        load_dataset(DataSettings(source="personachat", path=write(tmp_path / "p.json", "{")), 0)


# Labelled files

ROWS = [("x, y", "no", "ana"), ('say "hi"', "yes", "bo"), ("plain", "no", "ana")]


def labelled(folder: Path, ending: str) -> Path:
    file = folder / f"data{ending}"
    if ending == ".csv":
        with file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([("text", "label", "client"), *ROWS])
    elif ending == ".tsv":
        write(file, "\n".join("\t".join(row) for row in [("text", "label", "client"), *ROWS]))
    else:
        write(file, "\n".join(json.dumps(dict(zip(("text", "label", "client"), row, strict=True))) for row in ROWS))
    return file


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_a_labelled_file_in_each_format(ending: str, tmp_path: Path) -> None:
    file = labelled(tmp_path, ending)
    settings = DataSettings(source="text-classification-file", path=file, partition="natural", options=NO_SPLITS)
    assert load_dataset(settings, 0).clients == {"ana": [("x, y", 0), ("plain", 0)], "bo": [('say "hi"', 1)]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", 'text,label\n"open,1\n', r"d.csv, line 2: unexpected end of data"),
        ("d.csv", "text,label\nok,1\nonly\n", r"d.csv, line 3: expected 2 columns"),
        ("d.csv", "text,label\nok,\n", r"d.csv, line 2: column 'label' is missing or empty; the row has text"),
        ("d.csv", "text,label\nok,0\nok,5\n", r"d.csv, line 3: label 5; the file's 2 labels must be 0 to 1"),
        ("d.csv", "text,label\nok,-1\nok,0\n", r"d.csv, line 2: label -1; the file's 2 labels must be 0 to 1"),
        ("d.csv", "text,label,client\na,0,x\nb,1,\n", r"d.csv, line 3: column 'client' is empty here"),
        ("d.csv", "text,label,client\na,0,x\nb,1,y\n", r"d.csv has a column 'client', so say whose rows are whose"),
        ("d.jsonl", '{"text": "a", "label": 0}\n[1]\n', r"d.jsonl, line 2: expected an object"),
        ("d.jsonl", '{"text": null, "label": 0}\n', r"d.jsonl, line 1: column 'text' is missing or empty"),
        ("d.jsonl", '{"text": "a", "label": null}\n', r"d.jsonl, line 1: column 'label' is missing or empty"),
        ("d.jsonl", '{"text": "a", "label": 0}\n{"text"\n', r"d.jsonl, line 2: not valid JSON"),
        ("d.xlsx", "", r"d.xlsx must end in .csv, .tsv, .jsonl"),
    ],
)
def test_faults_in_a_labelled_file_name_the_line(name: str, content: str, message: str, tmp_path: Path) -> None:
    settings = DataSettings(source="text-classification-file", path=write(tmp_path / name, content), clients=1)
    with pytest.raises(DataError, match=message):
        load_dataset(settings, 0)


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x0c", "\x1e"])
def test_of_a_csv_ends_of_lines_alone_end_lines(mark: str, tmp_path: Path) -> None:
    file = write(tmp_path / "d.csv", f'text,label\nI liked{mark}it,1\n"two\n{mark}lines",0\nplain,1\n')
    settings = DataSettings(source="text-classification-file", path=file, clients=1, options=NO_SPLITS)
    (examples,) = load_dataset(settings, 0).clients.values()
    assert sorted(examples) == sorted([(f"I liked{mark}it", 1), (f"two\n{mark}lines", 0), ("plain", 1)])


def test_a_file_that_is_not_utf8_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b"text,label\n\xff,1\n")
    with pytest.raises(DataError, match=r"cannot read .*utf-8"):
        load_dataset(DataSettings(source="text-classification-file", path=tmp_path / "d.csv", clients=1), 0)
    with pytest.raises(DataError, match="no such file or folder"):
        load_dataset(DataSettings(source="text-classification-file", path=tmp_path / "e.csv", clients=1), 0)


def test_labels_are_numbered_as_they_are_listed(tmp_path: Path) -> None:
    file = write(tmp_path / "d.csv", "text,label\na,pos\nb,pos\n")
    options = {**NO_SPLITS, "labels": ["neg", "pos"]}
    settings = DataSettings(source="text-classification-file", path=file, clients=1, options=options)
    assert load_dataset(settings, 0).clients == {"client-0": [("a", 1), ("b", 1)]}
    wrong = settings.model_copy(update={"options": {**NO_SPLITS, "labels": ["neg", "neutral"]}})
    with pytest.raises(DataError, match=r"d.csv, line 2: label 'pos': labels = \['neg', 'neutral'\]"):
        load_dataset(wrong, 0)


def test_a_file_of_ones_own_is_trained_on_whole_and_numbered_as_everybodys(tmp_path: Path) -> None:
    rows = "".join(f"text {i},1,{i % 3}\n" for i in range(20))
    settings = DataSettings(
        source="text-classification-file",
        path=write(tmp_path / "d.csv", f"text,label,client\n{rows}"),
        partition="iid",
        clients=24,
        max_clients=3,
        options={"test": 15, "validation": 15},
    )
    assert load_own(settings, 0) == [(f"text {i}", 1) for i in range(20)]
    named = write(tmp_path / "n.csv", "text,label\na,pos\n")
    with pytest.raises(DataError, match=r"n.csv, line 2: label 'pos': .* the recipe says how names are numbered"):
        load_own(settings.model_copy(update={"path": named}), 0)
    listed = settings.model_copy(update={"path": named, "options": {"labels": ["neg", "pos"]}})
    assert load_own(listed, 0) == [("a", 1)]


def test_texts_of_ones_own_are_trained_on_whole(tmp_path: Path) -> None:
    write(tmp_path / "ana.txt", "\n".join(f"line {i}" for i in range(20)))
    assert load_own(DataSettings(source="text-files", path=tmp_path), 0) == [f"line {i}" for i in range(20)]


def test_natural_needs_the_column_client(tmp_path: Path) -> None:
    file = write(tmp_path / "d.csv", "text,label\na,0\nb,1\n")
    settings = DataSettings(source="text-classification-file", path=file, partition="natural", options=NO_SPLITS)
    with pytest.raises(DataError, match=r"d.csv has no column 'client'"):
        load_dataset(settings, 0)


# Texts


def test_text_files_hold_one_client_each(tmp_path: Path) -> None:
    write(tmp_path / "ana.txt", "\n".join(f"line {i}" for i in range(20)))
    write(tmp_path / "bo.txt", "hello there\n\nworld\n")
    data = load_dataset(DataSettings(source="text-files", path=tmp_path), 0)
    assert data.clients == {"ana": [f"line {i}" for i in range(18)], "bo": ["hello there", "world"]}
    assert data.evaluation == {"held-out-lines": [Opening("line 18\nline 19")]}


def test_texts_as_json_lines_and_held_out_clients(tmp_path: Path) -> None:
    rows = [{"client": f"c{i % 3}", "text": "word " * 40} for i in range(6)]
    file = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    data = load_dataset(DataSettings(source="text-files", path=file, options={"held_out_clients": 1}), 0)
    assert len(data.clients) == 2
    assert data.evaluation == {"held-out-clients": [Opening("\n".join([("word " * 40).strip()] * 2))]}


def test_an_empty_text_names_its_client(tmp_path: Path) -> None:
    write(tmp_path / "ana.txt", " \n")
    with pytest.raises(DataError, match="client 'ana' has no text"):
        load_dataset(DataSettings(source="text-files", path=tmp_path), 0)


@pytest.mark.parametrize(("fraction", "kept"), [(0.2, 8), (0.85, 2), (0.9, 1), (0.95, 1), (0.999, 1)])
def test_a_client_keeps_a_line_to_train_on(tmp_path: Path, fraction: float, kept: int) -> None:
    write(tmp_path / "a.txt", "\n".join(f"line {i}" for i in range(10)))
    write(tmp_path / "b.txt", "\n".join(f"other {i}" for i in range(9)))
    options = {"held_out_lines": fraction}
    data = load_dataset(DataSettings(source="text-files", path=tmp_path, options=options), 0)
    assert {client: len(texts) for client, texts in data.clients.items()} == {"a": kept, "b": 9}
    (held_out,) = data.evaluation["held-out-lines"]
    assert held_out == Opening("\n".join(f"line {i}" for i in range(kept, 10)))


def test_more_held_out_clients_than_there_are(tmp_path: Path) -> None:
    write(tmp_path / "ana.txt", "word " * 100)
    with pytest.raises(DataError, match="held_out_clients is 1, but of 1 clients only 1 have 60 words"):
        load_dataset(DataSettings(source="text-files", path=tmp_path, options={"held_out_clients": 1}), 0)
