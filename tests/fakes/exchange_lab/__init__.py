"""Local exchanges of every kind of paging: what an unmodified class of ccxt's gets of them, and what a page may prove."""
