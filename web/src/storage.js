const PREFIX = 'candlegraph:'
const EDITORS = /:(query|variables|headers)$/ // GraphiQL's second copy of the active tab
const SIGN_IN = /\b(login|refresh|logout)\b/
const LITERALS = /\b(password|token)(\s*:\s*)("""[^]*?(?:"""|$)|"(?:\\.|[^"\\\n])*"?)/g

/**
 * localStorage under its own prefix, so that another GraphiQL on the same host and port does not bring its tabs along.
 * No password, token or header is stored: GraphiQL would keep variables in tabs, and headers too in its history.
 */
export const storage = {
  getItem: (key) => localStorage.getItem(PREFIX + key),
  setItem: (key, value) => {
    if (!EDITORS.test(key)) localStorage.setItem(PREFIX + key, withoutSecrets(value))
  },
  removeItem: (key) => localStorage.removeItem(PREFIX + key),
  clear: () => ownKeys().forEach((key) => localStorage.removeItem(key)),
  get length() {
    return ownKeys().length
  },
}

function ownKeys() {
  return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX))
}

/** The tabs or the history as GraphiQL stores them, in JSON, without secrets; any other text as it is. */
export function withoutSecrets(text) {
  if (!text.startsWith('{')) return text
  return JSON.stringify(JSON.parse(text), (key, value) => {
    if (key === 'headers') return null
    return SIGN_IN.test(value?.query ?? '') ? withoutCredentials(value) : value
  })
}

/** An operation that signs in: its variables may have any name, so only the username keeps its value. */
function withoutCredentials({ query, variables, ...rest }) {
  return { ...rest, query: query.replace(LITERALS, '$1$2""'), variables: variables && blanked(variables) }
}

function blanked(variables) {
  try {
    return JSON.stringify(
      JSON.parse(variables),
      (key, value) => (typeof value === 'string' && key !== 'username' ? '' : value),
      2,
    )
  } catch {
    return null // half typed
  }
}
