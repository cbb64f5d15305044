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
  const isOlder = at < bars.length - 1
  if (!isOlder || bars[at]?.time === bar.time) series.update(bar, isOlder)
  else if (at >= 0) series.setData(bars.toSpliced(at + 1, 0, bar)) // between two bars, where there was none
}
