// Numbers and times as people read them. Every instant is in milliseconds.
import type { Candle } from '@candlegraph/client'

/** How many decimals a price has, by the smallest step of its symbol, or by its size where none is known. */
export function decimalsOf(increment: number | null | undefined, price = 1): number {
  if (increment && increment > 0) {
    for (let decimals = 0; decimals <= 12; decimals++) {
      const steps = increment * 10 ** decimals
      if (Math.abs(steps - Math.round(steps)) < 1e-9 * steps) return decimals
    }
  }
  return Math.abs(price) >= 1_000 ? 2 : Math.min(12, Math.max(2, 4 - Math.floor(Math.log10(Math.abs(price) || 1))))
}

const prices = new Map<number, Intl.NumberFormat>()

export function printPrice(price: number, decimals: number): string {
  let format = prices.get(decimals)
  if (!format) {
    format = new Intl.NumberFormat('en-US', { minimumFractionDigits: decimals, maximumFractionDigits: decimals })
    prices.set(decimals, format)
  }
  return format.format(price)
}

const volumes = new Intl.NumberFormat('en-US', { notation: 'compact', maximumFractionDigits: 2 })
const percents = new Intl.NumberFormat('en-US', { style: 'percent', minimumFractionDigits: 2, maximumFractionDigits: 2, signDisplay: 'exceptZero' })

export const printVolume = (volume: number): string => volumes.format(volume)
export const printPercent = (part: number): string => (Number.isFinite(part) ? percents.format(part) : '–')

/** 0:07, 4:59, 1:02:03, 3d 4h. */
export function printDuration(ms: number): string {
  const seconds = Math.max(0, Math.ceil(ms / 1_000))
  const [days, hours, minutes] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3_600) % 24, Math.floor(seconds / 60) % 60]
  const two = (number: number): string => String(number).padStart(2, '0')
  if (days > 0) return `${days}d ${hours}h`
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`
}

/** About how long a span is, in words. */
export function printSpan(ms: number): string {
  const units: [number, string][] = [[31_557_600_000, 'year'], [86_400_000, 'day'], [3_600_000, 'hour'], [60_000, 'minute']]
  const [length, unit] = units.find(([length]) => ms >= length) ?? [60_000, 'minute']
  const count = Math.round((ms / length) * 10) / 10
  return `${count} ${unit}${count === 1 ? '' : 's'}`
}

export function printTime(at: number, zone: string, withHours = true): string {
  return new Intl.DateTimeFormat('en-GB', {
    timeZone: zone, day: '2-digit', month: 'short', year: 'numeric', hourCycle: 'h23',
    ...(withHours ? { hour: '2-digit', minute: '2-digit' } : {}),
  }).format(at)
}

export const directionOf = ({ open, close }: Pick<Candle, 'open' | 'close'>): 'up' | 'down' => (close >= open ? 'up' : 'down')
