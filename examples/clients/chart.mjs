// A lightweight-charts 5 series that follows a subscription: `chart.addSeries(CandlestickSeries)` makes the series.
import { LIVE } from './candles.mjs'
import { connect } from './resuming.mjs'

/** Draw the history since `variables.since`, then the live candles. The result ends the subscription. */
export function draw(series, url, variables) {
  return connect(url).subscribe({ query: LIVE, variables }, {
    next: ({ data }) => data.candles.nodes.forEach((candle) => put(series, candle)),
    error: console.error,
    complete() {},
  })
}

function put(series, { timestamp, open, high, low, close }) {
  const bar = { time: timestamp / 1_000, open, high, low, close } // a chart counts in seconds
  const bars = series.data()
  const at = bars.findLastIndex(({ time }) => time <= bar.time)
  if (at === bars.length - 1) series.update(bar)
  else if (bars[at]?.time === bar.time) series.update(bar, true) // a correction of an older bar
  else if (at >= 0) series.setData(bars.toSpliced(at + 1, 0, bar)) // a correction where there was no bar
}
