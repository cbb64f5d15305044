const MINUTE_MS = 60_000
const DAY_MS = 86_400_000
const UNITS = { m: MINUTE_MS, h: 60 * MINUTE_MS, d: DAY_MS, w: 7 * DAY_MS, mon: 30 * DAY_MS, y: 365 * DAY_MS }
const ALIASES: Readonly<Record<string, keyof typeof UNITS>> = { min: 'm', mo: 'mon', M: 'mon' }
const STEPS: readonly [keyof typeof UNITS, number, keyof typeof UNITS][] = [['m', 60, 'h'], ['d', 7, 'w'], ['mon', 12, 'y']]

function parse(timeframe: string): { count: number; unit: keyof typeof UNITS } {
  const [, count, name = ''] = /^(\d+)(min|mon|mo|[mMhdwy])$/.exec(timeframe) ?? []
  if (!count || Number(count) === 0) throw new RangeError(`${timeframe} is no timeframe: write a count and m, h, d, w, mon or y.`)
  return { count: Number(count), unit: ALIASES[name] ?? (name as keyof typeof UNITS) }
}

/** The timeframe as the API prints it: 60m is 1h, 7d is 1w, 12mon is 1y; 24h stays 24h. RangeError if it is none. */
export function reduce(timeframe: string): string {
  let { count, unit } = parse(timeframe)
  for (const [from, divisor, to] of STEPS) if (unit === from && count % divisor === 0) [count, unit] = [count / divisor, to]
  return `${count}${unit}`
}

/** How long a candle is (ms); of months and years about as long. */
export function lengthOf(timeframe: string): number {
  const { count, unit } = parse(timeframe)
  return count * UNITS[unit]
}

/** Whether its candles are a day long or longer, so that a date names them. */
export function isDaily(timeframe: string): boolean {
  return !['m', 'h'].includes(parse(timeframe).unit)
}
