const MAX_WAIT_MS = 5_000

/** How long to wait before a try (ms): 250 at first, doubled each time, capped, with jitter. */
export function backoff(retries: number): number {
  return Math.min(250 * 2 ** Math.min(retries, 16), MAX_WAIT_MS) * (0.5 + Math.random() / 2)
}
