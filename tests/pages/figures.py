"""`python -m tests.pages.figures [PART ...]`: how fast the chart is; the figures of docs/chart.md."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.pages.scenarios import BROWSER, HERE, SERVE
from tests.server.running import ROOT, environment, serving


def main() -> None:
    """Serve the demo market with fifty symbols more, and measure the pages that are shipped."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(
            Path(folder) / "log",
            command=SERVE,
            DATA_DIR=str(Path(folder) / "data"),
            PAGES=str(ROOT / "server" / "web"),
            MORE_SYMBOLS="50",
        ) as server,
    ):
        described = {"usual": {"url": f"{server.url}/"}}
        variables = environment(CANDLEGRAPH_TEST=json.dumps(described), **BROWSER)
        subprocess.run(["node", "figures.mjs", *sys.argv[1:]], cwd=HERE, env=variables, check=True)


if __name__ == "__main__":
    main()
