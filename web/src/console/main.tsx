// The console: for operators.
import '../shared/base.css'
import './console.css'
import { render } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { account, restored, signOut } from '../session.ts'
import { BackfillsView } from './backfills.tsx'
import { CorrectionsView } from './corrections.tsx'
import { ProvidersView } from './providers.tsx'
import { type View, VIEWS, view } from './route.ts'
import { SeriesView } from './series.tsx'
import { SignIn } from './states.tsx'
import { StorageView } from './storage.tsx'
import { UploadView } from './upload.tsx'

const SHOWN: Record<View, () => preact.JSX.Element> = {
  series: SeriesView, backfills: BackfillsView, providers: ProvidersView, storage: StorageView, corrections: CorrectionsView, upload: UploadView,
}

function Console() {
  const Shown = SHOWN[view.value]
  useEffect(() => {
    const current = document.querySelector<HTMLElement>('nav [aria-current]')
    if (current?.parentElement) current.parentElement.scrollLeft = current.offsetLeft - 120
  }, [view.value])
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => { event.preventDefault(); document.getElementById('content')?.focus() }}>Skip to the content</a>
      <header class="top">
        <a class="brand" href="./" aria-label="Candlegraph: to the chart"><img src="static/favicon.svg" alt="" width="20" height="20" /><span>Candlegraph</span></a>
        <nav aria-label="Console">
          {VIEWS.map((one) => <a key={one} href={`#${one}`} aria-current={view.value === one ? 'page' : undefined}>{one[0]?.toUpperCase()}{one.slice(1)}</a>)}
        </nav>
        <AccountMenu />
      </header>
      <main id="content" tabIndex={0}><Shown key={`${view.value} ${account.value?.username ?? ''}`} /></main>
    </>
  )
}

function AccountMenu() {
  const [isAsking, setAsking] = useState(false)
  const user = account.value
  if (user) {
    return (
      <div class="account">
        <span class="muted">{user.username}</span>
        <button class="quiet" onClick={() => void signOut()}>Sign out</button>
      </div>
    )
  }
  return (
    <div class="account">
      <button class="quiet" aria-expanded={isAsking} onClick={() => setAsking(!isAsking)}>Sign in</button>
      {isAsking && <div class="popover"><SignIn message="With an account of this server." /></div>}
    </div>
  )
}

const app = document.getElementById('app')
if (app) {
  void restored.then(() => { // or every query would be sent twice: for the anonymous caller too
    app.replaceChildren()
    render(<Console />, app)
  })
}
