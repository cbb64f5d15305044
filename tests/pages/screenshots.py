"""`python -m tests.pages.screenshots`: renew the picture of the README."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from tests.pages.scenarios import BROWSER
from tests.server.running import ROOT, environment, serving

PICTURE = ROOT / "docs" / "chart.png"


def main() -> None:
    """Serve the demo market as `make run` does, and take the picture."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "log", DATA_DIR=str(Path(folder) / "data")) as server,
    ):
        described = {"usual": {"url": f"{server.url}/"}}
        subprocess.run(
            ["node", "screenshots.mjs", str(PICTURE)],
            cwd=Path(__file__).parent,
            env=environment(CANDLEGRAPH_TEST=json.dumps(described), **BROWSER),
            check=True,
        )


if __name__ == "__main__":
    main()
