"""The error tree is what its picture says."""

from __future__ import annotations

import re

import pytest

from candlegraph import BadUserInput, CandlegraphError, ProviderError, RateLimited, errors

DRAWN = dict(re.findall(r"^[| ]*[|`]-- (\w+) +([A-Z_]+) ", errors.__doc__ or "", re.MULTILINE))


def _tree(kind: type[CandlegraphError]) -> set[type[CandlegraphError]]:
    return {
        kind,
        *(found for sub in kind.__subclasses__() if sub.__module__ == errors.__name__ for found in _tree(sub)),
    }


def test_every_error_is_drawn_with_its_code() -> None:
    """The picture in the docstring holds all classes, and the codes they have."""
    assert {kind.__name__: kind.code for kind in _tree(CandlegraphError) - {CandlegraphError}} == DRAWN
    assert len(DRAWN) == 22


@pytest.mark.parametrize("kind", sorted(_tree(CandlegraphError), key=lambda kind: kind.__name__))
def test_an_error_without_a_message_says_what_its_docstring_says(kind: type[CandlegraphError]) -> None:
    """One line, ending in a full stop; a message of one's own takes its place."""
    assert kind().message == str(kind()) == (kind.__doc__ or "").splitlines()[0]
    assert kind().message.endswith(".")
    assert kind("Mine.").message == str(kind("Mine.")) == "Mine."
    assert kind().retry_after is None


def test_an_error_may_say_when_to_come_back() -> None:
    """In seconds."""
    error = RateLimited(retry_after=1.5)
    assert (error.retry_after, error.code) == (1.5, "RATE_LIMITED")
    assert isinstance(error, ProviderError)
    assert not isinstance(error, BadUserInput)
