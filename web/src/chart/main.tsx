// The chart: the front door.
import '../shared/base.css'
import { render } from 'preact'

const app = document.getElementById('app')
if (app) {
  app.replaceChildren()
  render(<main class="loading">The chart</main>, app)
}
