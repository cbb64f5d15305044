"""The caches of final candles: in this process and shared."""
