"""The README's example is executed: what it promises is what a newcomer sees."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import SecretStr

from resolvers.context import Context
from schema.build import build_schema
from server.settings import Settings
from server.wiring import open_runtime
from tests.timings import PATIENT

ROOT = Path(__file__).parents[1]


def _block(text: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found, language
    return found[1]


async def test_the_example_query_gets_the_answer_that_stands_below_it(database_dsn: str) -> None:
    """To the last digit, for the demo market is deterministic."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    async with open_runtime(Settings.read(db_connection_string=SecretStr(database_dsn)), timings=PATIENT) as running:
        result = await build_schema().execute(
            _block(readme, "graphql"), context_value=Context(running.services, "readme")
        )
    assert not result.errors
    assert result.data == json.loads(_block(readme, "json"))


def test_every_link_within_the_documentation_leads_somewhere() -> None:
    """A page that was renamed takes its links along."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_provider_of_ours_is_described() -> None:
    """The table of providers names each market that a plugin of ours brings."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for market in ("demo", "files", "crypto", "stocks"):
        assert f"| `{market}` |" in readme
