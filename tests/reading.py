"""How the databases of the suite are read: those of ``TEST_TIMESCALE_DSN`` have continuous aggregates."""

import os

from storage.candles import Reading, read_tables
from storage.continuous import Continuous
from storage.levels import ALL

READING: Reading = Continuous(ALL) if os.environ.get("TEST_TIMESCALE_DSN") else read_tables
