"""One laboratory a module: these tests only read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.fakes.laboratory import ApiWorld, laboratory


@pytest.fixture(scope="module")
async def lab(new_database: Callable[..., object], migrated_template: str) -> AsyncIterator[ApiWorld]:
    """The schema over a database with two hours of ``lab/bench``."""
    async with laboratory(await new_database(migrated_template)) as opened:
        yield opened
