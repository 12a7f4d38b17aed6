// A proxy that understands PostgreSQL's protocol, so that a test can lose exactly one request or exactly one answer:
//
//   cutBeforeServer(match)  the connection ends and the server never sees the request
//   cutBeforeAnswer(match)  the server has done it (ReadyForQuery was seen), the connection ends, nobody hears of it
//   holdRequest, holdAnswer the same, but the bytes wait until the test releases them or drops them
//
// A request is a simple Query, or everything from Parse to Sync; in COPY the data belongs to the request that began it.
// Beside that: a delay in both directions, a stall of everything, cutting all, and refusing new connections.

import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { systemClock } from '../../engine/base/clock.ts'

export interface WireRequest {
  /** Counts the connections through this proxy from 1. */
  readonly connection: number
  /** `application_name` of the connection; Millrace's are `millrace claim`, `millrace flush` ... */
  readonly application: string
  /** SQL text; of a prepared statement the text that it was parsed from. `startup` for the connection's own beginning. */
  readonly text: string
  /** Name of the prepared statement; empty without one. */
  readonly name: string
  /** Texts of the bound parameters; null for NULL. Empty for a simple query. */
  readonly values: readonly (string | null)[]
}

/** A text: the name of the prepared statement, or a part of the SQL. */
export type WireMatch = string | RegExp | ((request: WireRequest) => boolean)

export interface WireAnswer {
  readonly request: WireRequest
  /** What the server said: null when it did not see the request. `sqlState` is null unless it refused. */
  readonly answer: { readonly sqlState: string | null; readonly transaction: 'idle' | 'open' | 'failed' } | null
}

/** A fault that waits for its request. */
export interface WireFault {
  /** How often it happened. */
  readonly count: number
  /** Resolves when it has happened for the first time. */
  readonly happened: Promise<WireAnswer>
  /** From now on it does not happen any more. */
  cancel(): void
}

export interface WireHold extends WireFault {
  /** Passes on what was held, and what comes after it. */
  release(): void
  /** Ends the connections that are held, without passing anything on. */
  drop(): void
}

export interface WireProxy {
  readonly url: string
  readonly port: number
  /** The last few thousand requests, in the order in which they came. */
  readonly requests: readonly WireRequest[]
  /** Connections that are open now. */
  readonly open: number
  /** `times`: for so many requests that match; default 1. */
  cutBeforeServer(match: WireMatch, times?: number): WireFault
  cutBeforeAnswer(match: WireMatch, times?: number): WireFault
  holdRequest(match: WireMatch, times?: number): WireHold
  holdAnswer(match: WireMatch, times?: number): WireHold
  /** Resolves with the next request that matches, when it is on its way to the server. */
  seen(match: WireMatch): Promise<WireRequest>
  /** Every byte waits so long, in each direction; 0 ends it. */
  delay(ms: number): void
  /** Nothing passes any more (of connections of these applications); new ones are accepted and hear nothing. */
  stall(applies?: (application: string) => boolean): void
  /** What was stalled passes. */
  resume(): void
  /** Ends every connection now. */
  cutAll(): void
  /** Ends those of these applications; answers how many. */
  cutSome(applies: (application: string) => boolean): number
  /** New connections end at once until `accept`. */
  refuse(): void
  accept(): void
  close(): Promise<void>
}

type Stage = 'server' | 'answer'

interface Rule extends WireFault {
  readonly match: WireMatch
  readonly stage: Stage
  readonly holds: boolean
  left: number
  count: number
  readonly held: Set<Connection>
  happen(answer: WireAnswer): void
}

interface Pending {
  readonly request: WireRequest
  /** What happens to its answer. */
  readonly rule: Rule | null
  sqlState: string | null
}

const REQUESTS_MAX = 5_000
const NOTHING: Buffer = Buffer.alloc(0)
const SSL_REQUEST = 80_877_103
const GSS_REQUEST = 80_877_104
const CANCEL_REQUEST = 80_877_102

/** `url`: of the real server; a unix socket's folder may stand in its parameter `host`. */
export async function wireProxy(url: string): Promise<WireProxy> {
  const to = new URL(url)
  const folder = to.searchParams.get('host')
  const port = Number(to.port || to.searchParams.get('port') || 5432)
  const dial = () => (folder?.startsWith('/') ? connect(`${folder}/.s.PGSQL.${port}`) : connect(port, to.hostname))
  const state: ProxyState = {
    connections: new Set(),
    rules: [],
    requests: [],
    waiting: [],
    delayMs: 0,
    isStalled: () => false,
  }
  let refusing = false
  let count = 0
  const server = createServer((near) => {
    if (refusing) return void near.destroy()
    state.connections.add(new Connection(++count, near, dial(), state))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const through = new URL(url)
  through.searchParams.delete('host')
  through.searchParams.delete('port')
  through.hostname = '127.0.0.1'
  through.port = String((server.address() as AddressInfo).port)
  const add = (match: WireMatch, stage: Stage, holds: boolean, times: number): Rule => {
    const rule = newRule(match, stage, holds, times)
    state.rules.push(rule)
    return rule
  }
  const hold = (match: WireMatch, stage: Stage, times: number): WireHold => {
    const rule = add(match, stage, true, times)
    const each = (act: (connection: Connection) => void) => {
      rule.left = 0
      for (const connection of rule.held) act(connection)
      rule.held.clear()
    }
    return Object.assign(rule, {
      release: () => each((connection) => connection.release()),
      drop: () => each((connection) => connection.end()),
    })
  }
  const cutAll = () => {
    for (const connection of state.connections) connection.end()
  }
  return {
    url: through.href,
    port: Number(through.port),
    requests: state.requests,
    get open() {
      return state.connections.size
    },
    cutBeforeServer: (match, times = 1) => add(match, 'server', false, times),
    cutBeforeAnswer: (match, times = 1) => add(match, 'answer', false, times),
    holdRequest: (match, times = 1) => hold(match, 'server', times),
    holdAnswer: (match, times = 1) => hold(match, 'answer', times),
    seen: (match) =>
      new Promise((resolve) => {
        state.waiting.push({ match, resolve })
      }),
    delay(ms) {
      state.delayMs = ms
    },
    stall(applies = () => true) {
      state.isStalled = applies
    },
    resume() {
      state.isStalled = () => false
      for (const connection of state.connections) connection.flow()
    },
    cutAll,
    cutSome(applies) {
      const some = [...state.connections].filter(({ application }) => applies(application))
      for (const connection of some) connection.end()
      return some.length
    },
    refuse() {
      refusing = true
    },
    accept() {
      refusing = false
    },
    close: () =>
      new Promise<void>((resolve) => {
        refusing = true
        cutAll()
        server.close(() => resolve())
      }),
  }
}

interface ProxyState {
  readonly connections: Set<Connection>
  readonly rules: Rule[]
  readonly requests: WireRequest[]
  waiting: { readonly match: WireMatch; resolve(request: WireRequest): void }[]
  delayMs: number
  isStalled: (application: string) => boolean
}

function newRule(match: WireMatch, stage: Stage, holds: boolean, times: number): Rule {
  let tell!: (answer: WireAnswer) => void
  const happened = new Promise<WireAnswer>((resolve) => {
    tell = resolve
  })
  return {
    match,
    stage,
    holds,
    left: times,
    count: 0,
    held: new Set(),
    happened,
    happen(answer) {
      this.count++
      tell(answer)
    },
    cancel() {
      this.left = 0
    },
  }
}

function isMatch(match: WireMatch, request: WireRequest): boolean {
  if (typeof match === 'function') return match(request)
  if (typeof match === 'string') return request.name === match || request.text.includes(match)
  return match.test(request.text)
}

/** One client's connection and its twin to the server. */
class Connection {
  readonly #no: number
  readonly #near: Socket
  readonly #state: ProxyState
  readonly #toServer: Lane
  readonly #toClient: Lane
  readonly #statements = new Map<string, string>()
  #application = ''
  /** Bytes of the client that are no whole message yet. */
  #asked: Buffer = NOTHING
  /** Whole messages of a series that its Sync has not ended. */
  #series: Buffer[] = []
  #text = ''
  #name = ''
  #values: (string | null)[] = []
  #started = false
  /** Bytes of the server that are no whole message yet. */
  #told: Buffer = NOTHING
  /** Requests that the server has not answered, in order. */
  readonly #pending: Pending[] = []
  /** What the client sends behind it waits unread. */
  #heldRequest: { readonly bytes: Buffer; readonly pending: Pending } | null = null
  /** A held answer, and what the server sent behind it. */
  #heldAnswer: Buffer[] | null = null

  constructor(no: number, near: Socket, far: Socket, state: ProxyState) {
    this.#no = no
    this.#near = near
    this.#state = state
    const isStalled = () => state.isStalled(this.#application)
    this.#toServer = new Lane(far, state, isStalled)
    this.#toClient = new Lane(near, state, isStalled)
    for (const socket of [near, far]) {
      socket.on('error', () => {})
      socket.on('close', () => this.end())
    }
    near.on('data', (bytes) => this.#fromClient(bytes))
    far.on('data', (bytes) => this.#fromServer(bytes))
  }

  get application(): string {
    return this.#application
  }

  end(): void {
    this.#state.connections.delete(this)
    this.#toServer.end()
    this.#toClient.end()
  }

  /** What waited for the end of a stall. */
  flow(): void {
    this.#toServer.flow()
    this.#toClient.flow()
  }

  /** What waited for the end of a hold. */
  release(): void {
    const held = this.#heldRequest
    this.#heldRequest = null
    if (held !== null) {
      this.#pending.push(held.pending)
      this.#toServer.send(held.bytes)
    }
    const answers = this.#heldAnswer
    this.#heldAnswer = null
    if (answers !== null) this.#toClient.send(Buffer.concat(answers))
    if (held !== null) this.#fromClient(NOTHING)
  }

  #fromClient(bytes: Buffer): void {
    this.#asked = Buffer.concat([this.#asked, bytes])
    while (!this.#near.destroyed && this.#heldRequest === null) {
      const start = this.#started ? 1 : 0 // the first message has no kind
      if (this.#asked.length < start + 4) return
      const length = start + this.#asked.readInt32BE(start)
      if (this.#asked.length < length) return
      const message = this.#asked.subarray(0, length)
      this.#asked = this.#asked.subarray(length)
      if (this.#started) this.#message(message)
      else this.#startup(message)
    }
  }

  #startup(message: Buffer): void {
    const code = message.readInt32BE(4)
    if (code === SSL_REQUEST || code === GSS_REQUEST) {
      this.#near.write('N') // no TLS through this proxy
      return
    }
    this.#started = true
    if (code === CANCEL_REQUEST) {
      this.#toServer.send(message)
      return
    }
    const words = message.subarray(8).toString('utf8').split('\0')
    const at = words.indexOf('application_name')
    this.#application = at < 0 ? '' : words[at + 1]!
    this.#text = 'startup'
    this.#request(message)
  }

  #message(message: Buffer): void {
    const kind = String.fromCharCode(message[0]!)
    const body = message.subarray(5)
    if (kind === 'Q') {
      this.#text = body.toString('utf8').replace(/\0$/, '')
      this.#request(message)
      return
    }
    // passwords, COPY data and its end, goodbyes: they belong to what was begun
    if (!'PBDECSH'.includes(kind)) {
      this.#toServer.send(message)
      return
    }
    if (kind === 'P') {
      const [name = '', text = ''] = body.toString('utf8').split('\0', 2)
      this.#statements.set(name, text)
      this.#name = name
      this.#text = text
    }
    if (kind === 'B') {
      const portalEnd = body.indexOf(0) + 1
      const nameEnd = body.indexOf(0, portalEnd)
      this.#name = body.subarray(portalEnd, nameEnd).toString('utf8')
      this.#text = this.#statements.get(this.#name) ?? ''
      this.#values = boundValues(body.subarray(nameEnd + 1))
    }
    this.#series.push(message)
    if (kind === 'H') this.#toServer.send(Buffer.concat(this.#series.splice(0)))
    if (kind === 'S') this.#request(Buffer.concat(this.#series.splice(0)))
  }

  /** A whole request: on its way, held, or the end of this connection. */
  #request(bytes: Buffer): void {
    const request = {
      connection: this.#no,
      application: this.#application,
      text: this.#text,
      name: this.#name,
      values: this.#values,
    }
    this.#text = ''
    this.#name = ''
    this.#values = []
    const { requests, rules, waiting } = this.#state
    requests.push(request)
    if (requests.length > REQUESTS_MAX) requests.splice(0, REQUESTS_MAX / 2)
    const rule = rules.find(({ left, match }) => left > 0 && isMatch(match, request)) ?? null
    if (rule !== null) rule.left--
    if (rule?.stage === 'server') {
      if (rule.holds) {
        this.#heldRequest = { bytes, pending: { request, rule: null, sqlState: null } }
        rule.held.add(this)
      } else this.end()
      rule.happen({ request, answer: null })
      return
    }
    this.#pending.push({ request, rule, sqlState: null })
    this.#toServer.send(bytes)
    this.#state.waiting = waiting.filter(({ match, resolve }) => {
      if (!isMatch(match, request)) return true
      resolve(request)
      return false
    })
  }

  #fromServer(bytes: Buffer): void {
    if (this.#heldAnswer !== null && this.#pending[0]?.rule?.stage !== 'answer')
      return void this.#heldAnswer.push(bytes)
    this.#told = Buffer.concat([this.#told, bytes])
    let from = 0
    while (this.#told.length - from >= 5) {
      const end = from + 1 + this.#told.readInt32BE(from + 1)
      if (this.#told.length < end) break
      this.#answer(this.#told.subarray(from, end))
      from = end
    }
    this.#told = this.#told.subarray(from)
  }

  #answer(message: Buffer): void {
    const kind = String.fromCharCode(message[0]!)
    const pending = this.#pending[0]
    if (kind === 'E' && pending)
      pending.sqlState = /\0C([0-9A-Z]{5})\0/.exec(`\0${message.toString('latin1', 5)}`)?.[1] ?? null
    if (kind === 'Z') this.#pending.shift()
    const rule = pending?.rule ?? null
    // the data of a COPY has to come before there is anything to lose
    if (this.#heldAnswer === null && (rule === null || kind === 'G')) {
      this.#toClient.send(message)
      return
    }
    this.#heldAnswer ??= []
    this.#heldAnswer.push(message)
    if (rule === null || kind !== 'Z') return
    const status = String.fromCharCode(message[5]!)
    if (rule.holds) rule.held.add(this)
    else this.end()
    rule.happen({
      request: pending!.request,
      answer: {
        sqlState: pending!.sqlState,
        transaction: status === 'I' ? 'idle' : status === 'T' ? 'open' : 'failed',
      },
    })
  }
}

/** Parameters of a Bind message, from behind its two names. */
function boundValues(body: Buffer): (string | null)[] {
  let at = 2 + body.readInt16BE(0) * 2
  const values: (string | null)[] = []
  const count = body.readInt16BE(at)
  at += 2
  for (let i = 0; i < count; i++) {
    const length = body.readInt32BE(at)
    at += 4
    values.push(length < 0 ? null : body.toString('utf8', at, at + length))
    at += Math.max(0, length)
  }
  return values
}

/** One direction: bytes in their order, each no earlier than its delay, none while the proxy is stalled. */
class Lane {
  readonly #socket: Socket
  readonly #state: ProxyState
  readonly #isStalled: () => boolean
  readonly #queue: { readonly bytes: Buffer; readonly atMs: number }[] = []
  #timer: { cancel(): void } | null = null

  constructor(socket: Socket, state: ProxyState, isStalled: () => boolean) {
    this.#socket = socket
    this.#state = state
    this.#isStalled = isStalled
  }

  send(bytes: Buffer): void {
    this.#queue.push({ bytes, atMs: systemClock.steadyMs() + this.#state.delayMs })
    this.flow()
  }

  flow(): void {
    this.#timer?.cancel()
    this.#timer = null
    while (this.#queue.length > 0 && !this.#isStalled() && !this.#socket.destroyed) {
      const leftMs = this.#queue[0]!.atMs - systemClock.steadyMs()
      if (leftMs > 0) {
        this.#timer = systemClock.after(leftMs, () => this.flow(), true)
        return
      }
      this.#socket.write(this.#queue.shift()!.bytes)
    }
  }

  end(): void {
    this.#timer?.cancel()
    this.#timer = null
    this.#socket.destroy()
  }
}
