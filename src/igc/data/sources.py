"""The registry of data sources. A new source is one module and one entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from igc.data.base import Source
from igc.data.cifar10 import load_cifar10
from igc.data.fashion_mnist import load_fashion_mnist
from igc.data.hold_out import HoldOutOptions, LabelledFileOptions, ValidationOptions
from igc.data.local import load_labelled_file, load_texts
from igc.data.movie_reviews import MovieReviewsOptions, load_movie_reviews
from igc.data.personachat import PersonaChatOptions, load_personachat
from igc.data.shakespeare import ShakespeareOptions, load_shakespeare
from igc.data.sst2 import Sst2Options, load_sst2


@dataclass(frozen=True)
class Loader:
    """How a source is loaded, and what it can do.

    Attributes:
        load: ``(path, options, generator) -> Source``.
        options: the model of its options.
        labelled: its examples have labels, so that partitions may go by them.
        natural: it may know clients of its own.
        partition: the partition in force when none is asked for.
        path: what ``path`` has to name.
        needs_path: whether it cannot do without; the others fetch their data when no path is given.
    """

    load: Callable[[Any, Any, Any], Source[Any]]
    options: type[BaseModel]
    labelled: bool
    natural: bool
    partition: Literal["natural", "iid"]
    path: str
    needs_path: bool = False


SOURCES: dict[str, Loader] = {
    "movie-reviews": Loader(
        load_movie_reviews,
        MovieReviewsOptions,
        labelled=True,
        natural=False,
        partition="iid",
        path="the file of ratings",
    ),
    "shakespeare": Loader(
        load_shakespeare,
        ShakespeareOptions,
        labelled=False,
        natural=True,
        partition="natural",
        path="a folder of plays in Markdown",
    ),
    "sst2": Loader(
        load_sst2,
        Sst2Options,
        labelled=True,
        natural=False,
        partition="iid",
        path="GLUE's folder SST-2 with train.tsv and dev.tsv",
    ),
    "fashion-mnist": Loader(
        load_fashion_mnist,
        ValidationOptions,
        labelled=True,
        natural=False,
        partition="iid",
        path="a folder of IDX files: images and labels, train and t10k, gzipped or not",
    ),
    "cifar10": Loader(
        load_cifar10,
        ValidationOptions,
        labelled=True,
        natural=False,
        partition="iid",
        path="the folder cifar-10-batches-py with data_batch_1 to data_batch_5 and test_batch",
        needs_path=True,
    ),
    "personachat": Loader(
        load_personachat,
        PersonaChatOptions,
        labelled=False,
        natural=True,
        partition="natural",
        path="the file personachat_self_original.json",
        needs_path=True,
    ),
    "text-classification-file": Loader(
        load_labelled_file,
        LabelledFileOptions,
        labelled=True,
        natural=True,
        partition="iid",
        path="a .csv, .tsv or .jsonl file with columns text, label and perhaps client",
        needs_path=True,
    ),
    "text-files": Loader(
        load_texts,
        HoldOutOptions,
        labelled=False,
        natural=True,
        partition="natural",
        path="a folder with one .txt file a client, or a .jsonl file with client and text",
        needs_path=True,
    ),
}
