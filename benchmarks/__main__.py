"""Run the benchmarks and print their figures as tables in Markdown."""

from __future__ import annotations

import asyncio
import sys

from benchmarks import (
    aggregates,
    backfilling,
    caching,
    exporting,
    fanout,
    importing,
    load,
    nouns,
    serving,
    sessions,
    startup,
    writing,
)

BENCHMARKS = {
    "fold": nouns.fold_a_year,
    "aggregates": aggregates.read_and_write,
    "backfill": backfilling.backfill,
    "paging": backfilling.paging,
    "import": writing.import_a_million,
    "imports-read": importing.reading,
    "imports-write": importing.writing,
    "imports-folder": importing.folder_of_files,
    "export": exporting.export_a_million,
    "startup": startup.start_and_rest,
    "memory": serving.from_memory,
    "postgres": serving.from_postgres,
    "sessions": sessions.regular_sessions,
    "listeners": serving.listeners,
    "fanout": fanout.fan_out,
    "cache": caching.one_series,
    "watchlist": caching.watchlist,
    "faults": caching.faults,
    "corrections": caching.corrections,
    "load": load.load,
    "slow": load.slow,
    "soak": load.soak,
}


def main() -> None:
    """Run the benchmarks named on the command line, `imports` for all of its kind; without names all except the soak, which takes half an hour."""
    named = [name for given in sys.argv[1:] for name in BENCHMARKS if name == given or name.startswith(f"{given}-")]
    for name in named or [name for name in BENCHMARKS if name != "soak"]:
        print(f"\n## {name}\n")
        for row in asyncio.run(BENCHMARKS[name]()):
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
