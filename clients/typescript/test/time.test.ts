import assert from 'node:assert/strict'
import { test } from 'node:test'
import './window.js'
import { isDaily, lengthOf, reduce } from '@candlegraph/client'
import { ZonedTime, zonedFormats } from '@candlegraph/client/lightweight-charts'
import { TickMarkType, type Time, type UTCTimestamp } from 'lightweight-charts'

const ZONE = 'America/New_York'
const HOUR_S = 3_600

/** The weights of hourly points, as the time scale computes them: 50 and more is a new day. */
function newDays(since: number, hours: number): number[] {
  const scale = new ZonedTime(ZONE)
  const points = Array.from({ length: hours }, (_, i) => {
    const time = since / 1_000 + i * HOUR_S as UTCTimestamp
    return { time: scale.convertHorzItemToInternal(time), originalTime: time, timeWeight: 0 }
  }) as unknown as Parameters<typeof scale.fillWeightsForPoints>[0]
  scale.fillWeightsForPoints(points, 0)
  scale.fillWeightsForPoints(points, hours - 1)
  return points.flatMap(({ timeWeight, originalTime }) => (Number(timeWeight) >= 50 ? [Number(originalTime) * 1_000] : []))
}

test('a day begins at its midnight in the zone, also where the clocks change', () => {
  const autumn = Date.UTC(2024, 10, 3, 3) // 23:00 of 2 November; the clocks go back on the 3rd
  assert.deepEqual(newDays(autumn, 27), [Date.UTC(2024, 10, 3, 4), Date.UTC(2024, 10, 4, 5)])
  const spring = Date.UTC(2024, 2, 10, 4)
  assert.deepEqual(newDays(spring, 26), [Date.UTC(2024, 2, 10, 5), Date.UTC(2024, 2, 11, 4)])
})

test('labels are of the zone', () => {
  const { localization, timeScale } = zonedFormats(ZONE, true, 'en-GB')
  const time = Date.UTC(2024, 6, 2, 3, 30) / 1_000 as Time
  assert.match(localization.timeFormatter(time), /0?1 Jul 2024.*23:30/)
  assert.equal(timeScale.tickMarkFormatter(time, TickMarkType.Time), '23:30')
  assert.doesNotMatch(zonedFormats(ZONE, false, 'en-GB').localization.timeFormatter(time), /23/)
})

test('timeframes are reduced as the API prints them', () => {
  const printed = { '60m': '1h', '7d': '1w', '12mon': '1y', '24h': '24h', '5min': '5m', '1M': '1mon', '90m': '90m', '120m': '2h' }
  for (const [given, expected] of Object.entries(printed)) assert.equal(reduce(given), expected)
  assert.throws(() => reduce('0m'), RangeError)
  assert.throws(() => reduce('hour'), RangeError)
  assert.equal(lengthOf('5m'), 300_000)
  assert.deepEqual(['1h', '24h', '1d', '1mon'].map(isDaily), [false, false, true, true])
})
