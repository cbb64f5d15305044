// The colours of the canvas: those of the style sheet, as the theme has them at present.
import type { SourceSpan } from '@candlegraph/client'

export interface Palette {
  readonly canvas: string
  readonly line: string
  readonly text: string
  readonly muted: string
  readonly up: string
  readonly down: string
  readonly accent: string
  readonly gap: string
  readonly sources: Readonly<Record<SourceSpan['source'], string>>
}

export function readPalette(): Palette {
  const style = getComputedStyle(document.documentElement)
  const colour = (name: string): string => style.getPropertyValue(`--${name}`).trim()
  return {
    canvas: colour('canvas'), line: colour('line'), text: colour('text'), muted: colour('muted'),
    up: colour('up'), down: colour('down'), accent: colour('accent'), gap: colour('gap'),
    sources: {
      CACHE: colour('cache'), AGGREGATE: colour('aggregate'), STORE: colour('store'), PROVIDER: colour('provider'), LIVE: colour('live'),
    },
  }
}

/** A colour of the palette, as `#rrggbb`, more transparent. */
export function faded(colour: string, alpha: number): string {
  return `${colour}${Math.round(alpha * 255).toString(16).padStart(2, '0')}`
}

/** Call `listener` whenever the theme of the page changes. */
export function onTheme(listener: () => void): () => void {
  const system = matchMedia('(prefers-color-scheme: light)')
  const observer = new MutationObserver(listener)
  system.addEventListener('change', listener)
  observer.observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme'] })
  return () => {
    system.removeEventListener('change', listener)
    observer.disconnect()
  }
}
