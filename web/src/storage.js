const PREFIX = 'candlegraph:'
const HISTORY = /:(queries|favorites)$/

/**
 * localStorage under its own prefix, so that another GraphiQL on the same host and port does not bring its tabs along.
 * GraphiQL's history would keep request headers, hence tokens, even when headers are not to be stored: they are left out.
 */
export const storage = {
  getItem: (key) => localStorage.getItem(PREFIX + key),
  setItem: (key, value) => localStorage.setItem(PREFIX + key, HISTORY.test(key) ? withoutHeaders(value) : value),
  removeItem: (key) => localStorage.removeItem(PREFIX + key),
  clear: () => ownKeys().forEach((key) => localStorage.removeItem(key)),
  get length() {
    return ownKeys().length
  },
}

function ownKeys() {
  return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX))
}

function withoutHeaders(text) {
  return JSON.stringify(JSON.parse(text), (key, value) => (key === 'headers' ? undefined : value))
}
