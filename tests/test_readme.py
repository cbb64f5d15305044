"""The README's example is executed: what it promises is what a newcomer sees."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

from pydantic import SecretStr

from resolvers.context import Context
from schema.build import build_schema
from server.settings import Settings
from server.wiring import open_runtime
from tests.server.running import COMMAND, environment, serving
from tests.timings import PATIENT
from tests.waiting import HANG_S

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


def test_the_commands_work_as_they_are_written(tmp_path: Path) -> None:
    """One block after the other, beside a server that stands for `make run`; nothing is changed but address and password."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks.pop(0).startswith("make run ")
    shown = [
        ['"closed":true', '"closed":false'],
        ["Imported 1,440 candles of 1m into BTC/USD (mine/synthetic).", "28126.79  28418.46  27991.44  27997.28"],
        ["DONE: 44,640 candles", "BTC/USD (demo/synthetic) is kept complete"],
        ["ada may sign in, as operator."],
        ['"config":{"theme":"dark"}', '"username":"ada"'],
    ]
    assert len(blocks) == len(shown)
    data, password = str(tmp_path / "data"), "correct horse battery staple"
    with serving(tmp_path / "log", DATA_DIR=data) as server:
        command = " ".join(map(shlex.quote, COMMAND))
        for block, lines in zip(blocks, shown, strict=True):
            script = block.replace("http://127.0.0.1:8000", server.url).replace("PASSWORD", password)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script.replace(".venv/bin/candlegraph", command)],
                env=environment(DATA_DIR=data),
                cwd=tmp_path,
                input=password + "\n",
                capture_output=True,
                text=True,
                timeout=HANG_S,
                check=False,
            )
            assert done.returncode == 0, (block, done.stderr)
            for line in lines:
                assert line in done.stdout, block


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
