"""The suite over an installed plugin: what ``pytest --provider=<market>.<id>`` runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, entry_points

import pytest

from candlegraph.errors import CandlegraphError
from candlegraph.provider import ENTRY_POINT_GROUP, Provider, UnconfiguredProvider
from candlegraph.span import Span
from candlegraph.testing.subject import Subject, SubjectFactory
from candlegraph.testing.suite import Conformance


class TestProvider(Conformance):
    """The provider that the command line names."""

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        """One subject, as the options say; the settings are those of the environment."""
        option = metafunc.config.getoption
        name, symbol, span = (option(f"--provider{hint}") for hint in ("", "-symbol", "-span"))
        subject = _subject(str(name), symbol, _span(span) if span else None)
        metafunc.parametrize("bench", [subject], indirect=True, scope="class", ids=[name])


def _subject(name: str, symbol: str | None, span: Span | None) -> SubjectFactory:
    make(name, os.environ)  # raises its UsageError before any check

    @asynccontextmanager
    async def subject() -> AsyncIterator[Subject]:
        yield Subject(make=lambda: make(name, os.environ), symbol=symbol, span=span)

    return subject


def make(name: str, environ: Mapping[str, str]) -> Provider:
    """A new provider of an installed plugin. UsageError where there is none, or it lacks a setting."""
    others: list[str] = []
    for found in _entry_points(name.partition(".")[0], environ):
        if (offered := f"{found.market.id}.{found.id}") != name:
            others.append(offered)
        elif isinstance(found, UnconfiguredProvider):
            raise pytest.UsageError(f"--provider={name}: {found.reason}")
        else:
            return found
    points = sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP))
    raise pytest.UsageError(
        f"--provider={name}: no installed plugin brings it. Of this market there are {', '.join(others) or 'none'}; "
        f"the entry points in {ENTRY_POINT_GROUP} are {', '.join(points) or 'none'}."
    )


def _entry_points(market: str, environ: Mapping[str, str]) -> Iterator[Provider | UnconfiguredProvider]:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name.partition(".")[0] == market:
            yield from _create(point, environ)


def _create(point: EntryPoint, environ: Mapping[str, str]) -> list[Provider | UnconfiguredProvider]:
    try:
        return list(point.load()(environ))
    except CandlegraphError as error:
        raise pytest.UsageError(f"The plugin {point.name} ({point.value}): {error.message}") from error


def _span(text: str) -> Span:
    """Read ``<since>/<until>``, two ISO 8601 instants; UTC unless they say otherwise."""
    try:
        since, until = (datetime.fromisoformat(half) for half in text.split("/"))
    except ValueError:
        raise pytest.UsageError(
            f"--provider-span={text}: write two instants, as in 2024-05-01/2024-05-08T12:00."
        ) from None
    return Span(*(round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000) for at in (since, until)))
