"""Random cases against every kind of paging: ``python -m tests.fakes.exchange_lab --cases 10000``.

Counts the candles that were vouched away, that came with other numbers, and that did not come; the first two must be 0.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from tests.fakes.exchange_lab import comparison
from tests.fakes.exchange_lab.sampling import CARRIERS, Tally, run_cases


def main() -> int:
    """Run the cases, carrier by carrier, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.exchange_lab")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="renew the table of docs/exchanges.md instead")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.table:
        rows = asyncio.run(comparison.table())
        comparison.PAGE.write_text(comparison.renewed(comparison.PAGE.read_text("utf-8"), rows), "utf-8")
        return 0
    total = Tally()
    for carrier in CARRIERS:
        tally = asyncio.run(run_cases(carrier, options.cases // len(CARRIERS), options.seed))
        print(f"{carrier:12} {tally}", flush=True)
        total.add(tally)
    print(f"{'all':12} {total}")
    for failure in total.failures[:5]:
        print(failure)
    return 1 if total.vouched_away or total.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
