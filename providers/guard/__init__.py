"""The guard around every provider: retries, a rate budget, a circuit breaker, deadlines and its clock."""
