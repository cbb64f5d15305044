"""American stocks from Alpaca."""
