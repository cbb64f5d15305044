// Sends a file to the import of the server, and says how much of it has arrived.
import { CandlegraphError } from '@candlegraph/client'
import { authorization } from '../session.ts'

export interface Fact { readonly label: string; readonly text: string }

/** The answer to a dry run or an import. */
export interface Imported {
  readonly rows: number | null
  readonly timeframe: string | null
  readonly first: string | null
  readonly last: string | null
  readonly summary: string
  readonly facts: readonly Fact[]
  readonly warnings: readonly string[]
}

/** A file that the importer refused: line by line, and what it had found before. */
export class Refused extends CandlegraphError {
  readonly refusals: readonly string[]
  readonly facts: readonly Fact[]

  constructor(message: string, code: string, refusals: readonly string[], facts: readonly Fact[]) {
    super(message, code)
    this.refusals = refusals
    this.facts = facts
  }
}

export interface Target { readonly market: string; readonly provider: string; readonly symbol: string }

/** Send a file; `onProgress` gets the part (0 to 1) that has been sent. CandlegraphError; aborted: AbortError. */
export async function sendFile(
  file: File, target: Target, options: Readonly<Record<string, string>>, onProgress: (part: number) => void, signal: AbortSignal,
): Promise<Imported> {
  const token = await authorization()
  const path = [target.market, target.provider, target.symbol].map(encodeURIComponent).join('/')
  const query = new URLSearchParams({ ...options, file: file.name, modified: String(file.lastModified) })
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest() // fetch does not say how much it has sent
    request.open('PUT', new URL(`import/${path}?${query}`, location.href))
    request.setRequestHeader('content-type', 'application/octet-stream')
    if (token !== null) request.setRequestHeader('authorization', token)
    request.responseType = 'json'
    request.upload.onprogress = ({ loaded, total }) => onProgress(total ? loaded / total : 0)
    request.onload = () => {
      const answer = request.response as Imported & Partial<Failed> | null
      if (request.status === 200 && answer) resolve(answer)
      else reject(errorOf(answer, request.status))
    }
    request.onerror = () => reject(new CandlegraphError('The server does not answer, or ended the upload.', 'UNREACHABLE'))
    request.onabort = () => reject(new DOMException('The upload was cancelled.', 'AbortError'))
    signal.addEventListener('abort', () => request.abort())
    request.send(file)
  })
}

interface Failed {
  readonly errors: readonly { readonly message: string; readonly extensions: { readonly code: string } }[]
  readonly refusals?: readonly string[]
  readonly facts?: readonly Fact[]
}

function errorOf(answer: Partial<Failed> | null, status: number): CandlegraphError {
  const first = answer?.errors?.[0]
  if (!first) return new CandlegraphError(`The server answered with status ${status}.`, 'INTERNAL')
  if (!answer.refusals) return new CandlegraphError(first.message, first.extensions.code)
  return new Refused(first.message, first.extensions.code, answer.refusals, answer.facts ?? [])
}
