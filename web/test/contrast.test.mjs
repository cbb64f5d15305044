// The colours of the style sheet: text is legible (WCAG AA, 4.5 to 1) on every surface, dark and light.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'

const sheet = readFileSync(new URL('../src/shared/base.css', import.meta.url), 'utf8')
const SURFACES = ['canvas', 'surface', 'raised', 'hover']
const TEXTS = ['text', 'muted', 'accent', 'link', 'up', 'down', 'warn']

function luminance(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16) / 255)
    .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
  return 0.2126 * r + 0.7152 * g + 0.0722 * b
}

function contrast(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b)
  return (light + 0.05) / (dark + 0.05)
}

for (const [theme, start] of [['dark', ':root {'], ['light', ':root[data-theme="light"] {']]) {
  test(`${theme} text has enough contrast`, () => {
    const rules = sheet.slice(sheet.indexOf(start)).split('}')[0]
    const colours = Object.fromEntries([...rules.matchAll(/--([\w-]+): (#\w{6});/g)].map(([, name, colour]) => [name, colour]))
    const faint = SURFACES.flatMap((surface) => TEXTS.map((text) => [`${text} on ${surface}`, contrast(colours[text], colours[surface])]))
      .concat([['on-accent on accent', contrast(colours['on-accent'], colours.accent)]])
      .filter(([, ratio]) => ratio < 4.5)
    assert.deepEqual(faint, [])
  })
}

test('the light colours by the system and by choice are the same', () => {
  const [, system, chosen] = [...sheet.matchAll(/:root[^{]*\{([^}]*)\}/g)].map(([, rules]) => rules.replaceAll(/\s+/g, ' ').trim())
  assert.equal(system, chosen)
})
