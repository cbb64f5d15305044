"""python -m tests.clients.imports: imports of one process, a JSON list of the arguments of each on standard input."""

from __future__ import annotations

import json
import sys

from server.cli.main import main

if __name__ == "__main__":
    for arguments in json.load(sys.stdin):
        main(["import", *arguments], standalone_mode=False)
