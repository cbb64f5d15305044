// Closed candles from a subscription that survives a lost network: each one once, none missing.
import { LIVE } from './candles.mjs'
import { connect } from './resuming.mjs'

/** Call `onClosed` for each closed candle and `onCorrection` for each corrected one; the result ends the subscription. */
export function follow(url, variables, onClosed, onCorrection) {
  return connect(url).subscribe({ query: LIVE, variables }, {
    next({ data: { candles } }) {
      const closed = candles.nodes.filter((node) => node.closed)
      closed.forEach(candles.kind === 'CORRECTION' ? onCorrection : onClosed)
    },
    error: console.error,
    complete() {},
  })
}
