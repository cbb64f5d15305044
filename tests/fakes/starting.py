"""A registry of plugins that are not installed, and a provider whose start a test controls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from candlegraph.provider import Provider, UnconfiguredProvider
from providers.registry import Registry
from tests.fakes.upstream import FakeUpstream

ENVIRON = {"FAKE_KEY": "k"}


@dataclass(frozen=True)
class Point:
    """An entry point that is not installed."""

    name: str
    factory: Callable[[Mapping[str, str]], Iterable[Provider | UnconfiguredProvider]] | BaseException
    value: str = "package.module:create"

    def load(self) -> Callable[[Mapping[str, str]], Iterable[Provider | UnconfiguredProvider]]:
        if isinstance(self.factory, BaseException):
            raise self.factory
        return self.factory


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class Starting(FakeUpstream):
    """Counts its starts, takes as long for them as a test wants, and fails where it is to."""

    slow: asyncio.Event = field(default_factory=_set)
    starts: int = 0
    ended: list[str] = field(default_factory=list)
    closes: int = 0
    failing: BaseException | None = None
    failing_close: Exception | None = None

    async def start(self) -> None:
        self.starts += 1
        try:
            await self.slow.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("failed" if self.failing else "started")
        if self.failing:
            raise self.failing

    async def close(self) -> None:
        self.closes += 1
        if self.failing_close:
            raise self.failing_close


def registry(*points: Point, disabled: str = "") -> Registry:
    return Registry({**ENVIRON, "PROVIDERS_DISABLED": disabled}, points)  # type: ignore[arg-type]


def of(provider: Provider | UnconfiguredProvider, name: str = "fake.upstream") -> Point:
    return Point(name, lambda environ: [provider])
