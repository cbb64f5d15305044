// Server-sent events by GET. A browser has its own EventSource; Node takes it from the package.
import { EventSource } from 'eventsource'
import { backoff, resuming } from './resuming.mjs'

/** A client with `subscribe`, for an address such as `http://127.0.0.1:8000/graphql`. */
export function connectEvents(url) {
  return resuming({ subscribe: (payload, sink) => listen(url, payload, sink) })
}

function listen(url, { query, variables }, sink) {
  let retries = 0
  let timer
  let source

  function open() {
    // An EventSource that reconnects by itself repeats its address, with the old `since`.
    source = new EventSource(`${url}?${new URLSearchParams({ query, variables: JSON.stringify(variables) })}`)
    source.onopen = () => { retries = 0 }
    source.onerror = () => {
      source.close()
      timer = setTimeout(open, backoff(retries++))
    }
    source.addEventListener('next', ({ data }) => {
      const result = JSON.parse(data)
      if (result.data) sink.next(result)
      else sink.error(result.errors)
    })
    source.addEventListener('complete', () => {
      source.close()
      sink.complete()
    })
  }

  open()
  return () => {
    clearTimeout(timer)
    source.close()
  }
}
