"""The floor of answers: cache, aggregate, store, provider, in this order; and the backfill."""
