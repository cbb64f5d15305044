"""`candlegraph` with the pages of the folder `PAGES`; fast where `FAST_BEGAN_AT` says, and with `MORE_SYMBOLS` in the demo market."""

from __future__ import annotations

import os
import runpy
from dataclasses import replace
from pathlib import Path

from providers import demo
from server.transport import app

if __name__ == "__main__":
    more = range(int(os.environ.get("MORE_SYMBOLS", "0")))
    demo._PRICE_MODELS += tuple(replace(demo._PRICE_MODELS[0], symbol=f"M{i:02}/USD", seed=100 + i) for i in more)
    app.WEB = Path(os.environ["PAGES"])
    program = "tests.server.fast" if "FAST_BEGAN_AT" in os.environ else "server.cli.main"
    runpy.run_module(program, run_name="__main__", alter_sys=True)
