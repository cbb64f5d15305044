// Measure: from where the pointer is pressed to where it is released; or by the arrow keys, from close to close.
import { useSignal } from '@preact/signals'
import { useEffect, useRef } from 'preact/hooks'
import { lengthOf } from '@candlegraph/client'
import { printPercent, printPrice, printSpan } from '../shared/format.ts'
import type { Chart, Place } from './chart.ts'

const SHIFT_BARS = 10

export function Measure({ chart }: { chart: Chart }) {
  const from = useSignal<Place | null>(null)
  const to = useSignal<Place | null>(null)
  const isDown = useSignal(false)
  const box = useRef<HTMLDivElement>(null)
  const placeOf = ({ offsetX: x, offsetY: y }: PointerEvent): Place | null => chart.placeAt({ x, y })
  const area = useRef<HTMLDivElement>(null)
  useEffect(() => { area.current?.focus() }, [])
  const move = (bars: number): void => {
    const candles = chart.timeline.value?.of.candles ?? []
    const at = candles.findLastIndex(({ timestamp }) => timestamp <= (to.value?.at ?? Infinity))
    const [present, next] = [candles[at], candles[Math.max(0, Math.min(candles.length - 1, at + bars))]]
    if (!present || !next) return
    from.value ??= chart.placeOf(present)
    to.value = chart.placeOf(next) ?? to.value
  }
  const onKeyDown = (event: KeyboardEvent): void => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key]
    if (step) move(event.shiftKey ? step * SHIFT_BARS : step)
    else if (event.key === 'Enter') from.value = to.value
    else return
    event.preventDefault()
    event.stopPropagation() // the arrows would scroll the chart
  }
  useEffect(() => {
    const [element, start, end] = [box.current, from.value?.point, to.value?.point]
    if (!element || !start || !end) return
    element.style.left = `${Math.min(start.x, end.x)}px`
    element.style.top = `${Math.min(start.y, end.y)}px`
    element.style.width = `${Math.abs(end.x - start.x)}px`
    element.style.height = `${Math.abs(end.y - start.y)}px`
  })
  const [start, end] = [from.value, to.value]
  const change = start && end ? end.price - start.price : 0
  const length = start && end ? Math.abs(end.at - start.at) : 0
  return (
    <div
      class="measure" role="application" tabIndex={0} ref={area} onKeyDown={onKeyDown}
      aria-label="Measure: drag from one point to another, or move with the left and right arrows from the newest candle; Enter starts anew"
      onPointerDown={(event) => { event.currentTarget.setPointerCapture(event.pointerId); isDown.value = true; from.value = to.value = placeOf(event) }}
      onPointerMove={(event) => { if (isDown.value) to.value = placeOf(event) ?? to.value }}
      onPointerUp={() => { isDown.value = false }}
    >
      {start && end && (
        <div class={`span ${change < 0 ? 'down' : 'up'}`} ref={box}>
          <output>
            <b>{change < 0 ? '−' : '+'}{printPrice(Math.abs(change), chart.decimals.value)} ({printPercent(end.price / start.price - 1)})</b>
            <span>{Math.round(length / lengthOf(chart.view.timeframe))} bars, {printSpan(length)}</span>
          </output>
        </div>
      )}
    </div>
  )
}
