"""What a client with noise of its own holds the server to: no round twice, and no answer beyond the budget.

Each answer has fresh noise, which a server that asks for the same again and again could average away. The server's account
(`igc.federation.protection.accountant`) is its own; a client that trusts it with nothing counts for itself.
"""

from __future__ import annotations

from typing import Any

from igc.federation.engine import RefusedError
from igc.records import record


class AnsweredError(RefusedError):
    """A client has answered a round before, or as often as its budget allows."""


@record
class Answered:
    """What a client remembers.

    Attributes:
        inner: for the method; None before its first round.
        round: the latest that it answered; -1: none yet.
        answers: how many it gave.
    """

    inner: Any = None
    round: int = -1
    answers: int = 0

    def after(self, round: int, most: int | None) -> Answered:
        """The account after one more answer.

        Args:
            round: that it is for.
            most: how many answers there may be; None: any number.

        Raises:
            AnsweredError: the answer must not be given.
        """
        if round <= self.round:
            raise AnsweredError(
                f"it has answered round {self.round + 1} before, and answers no round up to that one again: noise that is"
                " drawn anew could be averaged away"
            )
        if most is not None and self.answers >= most:
            raise AnsweredError(
                f"it has answered {self.answers:,} times, and privacy.epsilon, by its own account, covers {most:,}"
            )
        return Answered(self.inner, round, self.answers + 1)
