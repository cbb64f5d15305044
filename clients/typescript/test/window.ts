// What lightweight-charts needs of a browser; import it before the library. A canvas draws nothing.
import { Window } from 'happy-dom'

const window = new Window({ url: 'http://localhost/' })
const { document, location, HTMLElement, ResizeObserver } = window
Object.assign(globalThis, {
  window, document, location, HTMLElement, ResizeObserver,
  requestAnimationFrame: (draw: () => void) => setTimeout(draw, 16), cancelAnimationFrame: clearTimeout,
  addEventListener: window.addEventListener.bind(window), removeEventListener: window.removeEventListener.bind(window),
})
Object.defineProperty(globalThis, 'navigator', { value: window.navigator, configurable: true })
const blank: unknown = new Proxy({}, {
  get: (_, name) => (name === 'measureText' ? () => ({ width: 10 }) : () => blank), set: () => true,
})
Object.assign(window.HTMLCanvasElement.prototype, { getContext: () => blank })

// The library reads a colour by way of an element, as `rgb(...)`.
Object.assign(window, { getComputedStyle: () => ({ color: 'rgb(0, 0, 0)' }) })

/** An element for a chart. */
export function box(): globalThis.HTMLElement {
  const element = document.createElement('div')
  document.body.append(element)
  return element as unknown as globalThis.HTMLElement
}
