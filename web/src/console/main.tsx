// The console: for operators.
import '../shared/base.css'
import { render } from 'preact'
import { account } from '../session.ts'

function Console() {
  return (
    <main class="loading">
      <h1>Console</h1>
      <p>{account.value ? `Signed in as ${account.value.username}.` : 'Not signed in.'} <a href="./">The chart</a></p>
    </main>
  )
}

const app = document.getElementById('app')
if (app) {
  app.replaceChildren()
  render(<Console />, app)
}
