"""Answers to candles queries, from the cache, an aggregate, the store or a provider, in this order; and the backfill."""
