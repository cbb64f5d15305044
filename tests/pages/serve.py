"""`candlegraph` with the pages of the folder `PAGES`: those with the development builds of their libraries."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from server.cli.main import main
from server.transport import app
from tests.server import fast

if __name__ == "__main__":
    app.WEB = Path(os.environ["PAGES"])
    if "FAST_BEGAN_AT" in os.environ:
        fast.quicken()
    sys.exit(main())
