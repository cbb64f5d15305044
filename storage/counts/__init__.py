"""How much is stored: of a series, of a page of series, and of the whole database."""
