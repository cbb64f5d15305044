// Icons, drawn with strokes in the colour of the text.
const PATHS = {
  plus: 'M8 3v10M3 8h10',
  close: 'M4 4l8 8M12 4l-8 8',
  one: 'M2.5 3.5h11v9h-11z',
  two: 'M2.5 3.5h11v9h-11zM8 3.5v9',
  four: 'M2.5 3.5h11v9h-11zM8 3.5v9M2.5 8h11',
  measure: 'M3 11L11 3l2 2-8 8zM6 8l1 1M8 6l1 1',
  picture: 'M2.5 5h3l1-1.5h3l1 1.5h3v7.5h-11zM8 6.7a2 2 0 1 1 0 4 2 2 0 0 1 0-4z',
  link: 'M7 9a2.6 2.6 0 0 0 3.7 0l2-2a2.6 2.6 0 0 0-3.7-3.7l-.7.7M9 7a2.6 2.6 0 0 0-3.7 0l-2 2A2.6 2.6 0 0 0 7 12.7l.7-.7',
  system: 'M8 2.5a5.5 5.5 0 1 0 0 11zM8 2.5a5.5 5.5 0 1 1 0 11',
  dark: 'M13 9.5A5.5 5.5 0 1 1 6.5 3 4.5 4.5 0 0 0 13 9.5z',
  light: 'M8 5.2a2.8 2.8 0 1 1 0 5.6 2.8 2.8 0 0 1 0-5.6zM8 1.5v1.4M8 13.1v1.4M1.5 8h1.4M13.1 8h1.4M3.4 3.4l1 1M11.6 11.6l1 1M12.6 3.4l-1 1M4.4 11.6l-1 1',
  list: 'M2.5 4h11M2.5 8h11M2.5 12h11',
  keys: 'M2.5 4.5h11v7h-11zM5 7h.01M8 7h.01M11 7h.01M5.5 9.5h5',
} as const

export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
      <path d={PATHS[name]} fill="none" stroke="currentColor" stroke-width="1.4" stroke-linecap="round" stroke-linejoin="round" />
    </svg>
  )
}
