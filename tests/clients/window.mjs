// node --import ./window.mjs   what lightweight-charts needs of a browser when it is loaded.
import { Window } from 'happy-dom'

const window = new Window({ url: 'http://localhost/' })
const { document, navigator, location, HTMLElement, ResizeObserver } = window
Object.assign(globalThis, { window, document, location, HTMLElement, ResizeObserver })
Object.defineProperty(globalThis, 'navigator', { value: navigator, configurable: true })
globalThis.requestAnimationFrame = (draw) => setTimeout(draw, 16)
globalThis.cancelAnimationFrame = clearTimeout
