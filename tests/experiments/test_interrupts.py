"""Ctrl-C waits for what must be done whole."""

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, model_serializer
from pydantic_core import PydanticSerializationError

from igc.experiments.interrupts import interrupts_wait


@pytest.fixture(autouse=True)
def ctrl_c_as_in_a_terminal() -> Iterator[None]:
    """What is started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupted(BaseModel):
    """Ctrl-C comes while it is serialised."""

    @model_serializer
    def parts(self) -> dict[str, Any]:
        signal.raise_signal(signal.SIGINT)
        return {"whole": True}


def test_ctrl_c_comes_once_the_block_is_through() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        signal.raise_signal(signal.SIGINT)
        done.append("the rest")
    assert done == ["the rest"]


def test_it_is_not_turned_into_an_error_of_a_library() -> None:
    with pytest.raises(PydanticSerializationError):  # what would end a program as if it were at fault
        Interrupted().model_dump()
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        assert Interrupted().model_dump() == {"whole": True}


@pytest.mark.parametrize("interrupted", [False, True])
def test_ctrl_c_is_as_before_afterwards(interrupted: bool) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with interrupts_wait():
            if interrupted:
                signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        assert interrupted
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_of_the_block_is_the_one_that_is_told() -> None:
    with pytest.raises(OSError, match="disk full"), interrupts_wait():
        signal.raise_signal(signal.SIGINT)
        raise OSError("disk full")


def test_other_threads_which_ctrl_c_never_reaches_may_use_it() -> None:
    done = []

    def work() -> None:
        with interrupts_wait():
            done.append("work")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["work"]
