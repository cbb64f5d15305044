"""`candlegraph` with the pages of the folder `PAGES`, where their libraries are the development builds; fast where `FAST_BEGAN_AT` says."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

from server.transport import app

if __name__ == "__main__":
    app.WEB = Path(os.environ["PAGES"])
    program = "tests.server.fast" if "FAST_BEGAN_AT" in os.environ else "server.cli.main"
    runpy.run_module(program, run_name="__main__", alter_sys=True)
