import { defaultHorzScaleBehavior, type IHorzScaleBehavior, type TickMarkType, type Time, type UTCTimestamp } from 'lightweight-charts'

const SLOT_S = 1_800 // offsets change at half hours of UTC only

/** How far the clocks of a zone are ahead of UTC at an instant (s); both in seconds. */
function offsetIn(zone: string): (time: number) => number {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: zone, hourCycle: 'h23', year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric', second: 'numeric',
  })
  const offsets = new Map<number, number>()
  return (time) => {
    const slot = Math.floor(time / SLOT_S)
    let offset = offsets.get(slot)
    if (offset === undefined) {
      const parts = Object.fromEntries(format.formatToParts(slot * SLOT_S * 1_000).map(({ type, value }) => [type, Number(value)]))
      const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = parts
      offset = Date.UTC(year, month - 1, day, hour, minute, second) / 1_000 - slot * SLOT_S
      offsets.set(slot, offset)
    }
    return offset
  }
}

/**
 * The time scale of a chart in a time zone: `createChartEx(box, new ZonedTime('Europe/Berlin'), zonedFormats('Europe/Berlin'))`.
 * A day begins at its midnight, and no hour is repeated or lost when the clocks change, for the times themselves stay UTC.
 */
export const ZonedTime: new (zone: string) => IHorzScaleBehavior<Time> = class extends defaultHorzScaleBehavior() {
  readonly #offset: (time: number) => number

  constructor(zone: string) {
    super()
    this.#offset = offsetIn(zone)
  }

  override fillWeightsForPoints(points: Parameters<IHorzScaleBehavior<Time>['fillWeightsForPoints']>[0], start: number): void {
    const first = Math.max(0, start - 1)
    const shifted = points.slice(first).map((point) => {
      const time = point.originalTime as UTCTimestamp
      return { ...point, time: this.convertHorzItemToInternal(time + this.#offset(time) as UTCTimestamp) }
    })
    super.fillWeightsForPoints(shifted, start - first)
    shifted.slice(start - first).forEach(({ timeWeight }, i) => {
      const point = points[start + i]
      if (point) point.timeWeight = timeWeight
    })
  }
}

const MARKS: readonly Intl.DateTimeFormatOptions[] = [ // by TickMarkType
  { year: 'numeric' }, { month: 'short' }, { day: 'numeric' },
  { hour: '2-digit', minute: '2-digit' }, { hour: '2-digit', minute: '2-digit', second: '2-digit' },
]

/** Options of a chart. */
export interface ZonedFormats {
  readonly localization: { readonly timeFormatter: (time: Time) => string }
  readonly timeScale: {
    readonly timeVisible: boolean
    readonly secondsVisible: boolean
    readonly tickMarkFormatter: (time: Time, type: TickMarkType) => string | null
  }
}

/** The options of a chart that prints its times in a zone, with hours or, for days and longer candles, without. */
export function zonedFormats(zone: string, withHours = true, locale?: string): ZonedFormats {
  const options = { timeZone: zone, hourCycle: 'h23' as const }
  const marks = MARKS.map((mark) => new Intl.DateTimeFormat(locale, { ...options, ...mark }))
  const label = new Intl.DateTimeFormat(locale, {
    ...options, weekday: 'short', day: '2-digit', month: 'short', year: 'numeric', ...(withHours ? { hour: '2-digit', minute: '2-digit' } : {}),
  })
  return {
    localization: { timeFormatter: (time) => label.format(Number(time) * 1_000) },
    timeScale: {
      timeVisible: withHours,
      secondsVisible: false,
      tickMarkFormatter: (time, type) => marks[type]?.format(Number(time) * 1_000) ?? null,
    },
  }
}
