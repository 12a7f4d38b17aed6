// The faults of the lab: each does its harm, ends it, and says what it did. What is harmed is the way to PostgreSQL (by
// proxies), PostgreSQL itself, disks, or the engines' processes.

import { rmSync, statfsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { systemClock } from '../../engine/base/clock.ts'
import type { Dice } from '../support/dice.ts'
import type { WireProxy } from '../support/wire-proxy.ts'
import { CUTS, matcherOf } from './cuts.ts'
import type { Lab } from './lab.ts'

export interface Harm {
  readonly name: string
  /** Only where disks can be made small: as root, on Linux. */
  readonly needsDisks?: boolean
  /** @returns what it did, for people */
  readonly do: (lab: Lab, dice: Dice) => Promise<string>
}

const KINDS = ['claim', 'flush', 'enqueue', 'keys', 'bulk', 'beat', 'notify', 'schedule', 'ask', 'listen'] as const
const STATEMENTS = [...new Set(CUTS.filter(({ where }) => where === undefined).map(({ statement }) => statement))]
const CUT_MS_MAX = 3_000
/** Statements are chosen among those that are being sent. */
const LATELY_REQUESTS = 150
const LOOK_EVERY_MS = 20
/** Connections that one fault opens at most, to use up those that there are. */
const CONNECTIONS_MAX = 500
const BALLAST_PIECE = Buffer.alloc(1024 * 1024)
const STOP_MS = 1_500

const sleep = (ms: number) => systemClock.sleep(ms)

export const HARMS: readonly Harm[] = [
  {
    name: 'nothing at all',
    async do(_lab, dice) {
      await sleep(dice.whole(500, 2_000))
      return 'nothing'
    },
  },
  {
    name: 'requests lost',
    do: (lab, dice) => loseStatements(lab, dice, 'cutBeforeServer'),
  },
  {
    name: 'answers lost',
    do: (lab, dice) => loseStatements(lab, dice, 'cutBeforeAnswer'),
  },
  {
    name: 'answers of claims lost',
    async do(lab, dice) {
      const proxies = lab.engines.map(({ proxy }) => proxy)
      const faults = proxies.map((proxy) =>
        proxy.cutBeforeAnswer(({ text }) => dice.next() < 0.5 && /\.(claim\w*|prepare)\(/.test(text), 1_000),
      )
      await sleep(dice.whole(1_000, 4_000))
      for (const fault of faults) fault.cancel()
      return `${faults.reduce((sum, { count }) => sum + count, 0)} times`
    },
  },
  {
    name: 'connections cut at random',
    async do(lab, dice) {
      const untilMs = systemClock.steadyMs() + dice.whole(500, 4_000)
      let cuts = 0
      while (systemClock.steadyMs() < untilMs) {
        const proxy = dice.pick(lab.proxies)
        cuts += proxy.cutSome(() => dice.next() < 0.3)
        await sleep(dice.whole(10, 400))
      }
      return `${cuts} cuts`
    },
  },
  {
    name: 'one kind of connection says nothing',
    async do(lab, dice) {
      const kind = dice.pick(KINDS)
      const forMs = dice.whole(1_000, 6_000)
      for (const proxy of lab.proxies) proxy.stall((application) => application.endsWith(` ${kind}`))
      await sleep(forMs)
      for (const proxy of lab.proxies) proxy.resume()
      return `${kind} for ${forMs} ms`
    },
  },
  {
    name: 'nothing comes through to one engine',
    async do(lab, dice) {
      const { proxy } = dice.pick(lab.engines)
      const forMs = dice.whole(1_000, lab.nodeLimitMs * 2)
      proxy.stall()
      await sleep(forMs)
      proxy.resume()
      return `${forMs} ms`
    },
  },
  {
    name: 'a slow network',
    async do(lab, dice) {
      const delayMs = dice.whole(10, 150)
      for (const proxy of lab.proxies) proxy.delay(delayMs)
      await sleep(dice.whole(1_000, 4_000))
      for (const proxy of lab.proxies) proxy.delay(0)
      return `${delayMs} ms each way`
    },
  },
  {
    name: 'the network is away',
    async do(lab, dice) {
      const hurt = dice.pick([lab.proxies, [dice.pick(lab.proxies)]])
      const forMs = dice.whole(500, lab.nodeLimitMs * 2)
      for (const proxy of hurt) {
        proxy.refuse()
        proxy.cutAll()
      }
      await sleep(forMs)
      for (const proxy of hurt) proxy.accept()
      return `${hurt.length} of ${lab.proxies.length} ways for ${forMs} ms`
    },
  },
  {
    name: 'sessions terminated',
    async do(lab, dice) {
      const times = dice.whole(1, 10)
      let ended = 0
      for (let n = 0; n < times; n++) {
        const rows = await lab.ask<{ n: number }>(
          `select count(pg_terminate_backend(pid))::int as n from (select pid from pg_stat_activity
           where pid <> pg_backend_pid() and (application_name like 'millrace%' or application_name in ('ledger', 'caller', 'sql'))
           order by random() limit $1) as picked`,
          [dice.whole(1, 6)],
        )
        ended += rows[0]!.n
        await sleep(dice.whole(20, 400))
      }
      return `${ended} sessions`
    },
  },
  {
    name: 'PostgreSQL stopped at once',
    do: (lab, dice) => restart(lab, dice, 'immediate'),
  },
  {
    name: 'PostgreSQL restarted',
    do: (lab, dice) => restart(lab, dice, 'fast'),
  },
  {
    name: 'connections used up',
    async do(lab, dice) {
      const taken: pg.Client[] = []
      try {
        lab.engines.forEach(({ proxy }) => void proxy.cutSome(() => dice.next() < 0.5))
        while (taken.length < CONNECTIONS_MAX) {
          const client = new pg.Client({ connectionString: lab.serverUrl, connectionTimeoutMillis: 2_000 })
          client.on('error', () => {})
          await client.connect()
          taken.push(client)
        }
      } catch {
        // there are no more
      }
      // whoever lets go of one does not get it back
      const untilMs = systemClock.steadyMs() + dice.whole(1_000, 4_000)
      while (systemClock.steadyMs() < untilMs) {
        for (const { proxy } of lab.engines) proxy.cutSome(() => dice.next() < 0.1)
        await sleep(100)
      }
      await Promise.all(taken.map((client) => client.end().catch(() => {})))
      return `${taken.length} taken`
    },
  },
  {
    name: 'an engine killed',
    async do(lab, dice) {
      const at = dice.whole(0, lab.engines.length - 1)
      await lab.engines[at]!.process.kill9()
      await sleep(dice.whole(0, 2_000))
      lab.launch(at)
      return `engine ${at}`
    },
  },
  {
    name: 'an engine frozen',
    async do(lab, dice) {
      const at = dice.whole(0, lab.engines.length - 1)
      const forMs = dice.whole(200, lab.nodeLimitMs * 2)
      const { process } = lab.engines[at]!
      process.signal('SIGSTOP')
      await sleep(forMs)
      process.signal('SIGCONT')
      return `engine ${at} for ${forMs} ms`
    },
  },
  {
    name: 'an engine stopped while PostgreSQL is away',
    async do(lab, dice) {
      const at = dice.whole(0, lab.engines.length - 1)
      const { process, proxy } = lab.engines[at]!
      proxy.refuse()
      proxy.cutAll()
      await sleep(dice.whole(100, 1_000))
      const said = await stopped(process)
      proxy.accept()
      await process.kill9()
      lab.launch(at)
      return `engine ${at}: ${said}`
    },
  },
  {
    name: 'the disk of an outbox is full',
    needsDisks: true,
    async do(lab, dice) {
      const at = dice.whole(0, lab.engines.length - 1)
      const { process, proxy, folder } = lab.engines[at]!
      const free = fill(folder)
      proxy.refuse()
      proxy.cutAll()
      await sleep(dice.whole(500, 1_500))
      const said = await stopped(process)
      free()
      proxy.accept()
      await process.kill9()
      lab.launch(at)
      return `engine ${at}: ${said}`
    },
  },
  {
    name: 'the disk of PostgreSQL is full',
    needsDisks: true,
    async do(lab, dice) {
      const free = fill(lab.serverFolder)
      await sleep(dice.whole(2_000, 8_000))
      free()
      const came = await lab.serverIsUp()
      return came === 'again' ? 'it went down, and was started again' : 'it stayed up'
    },
  },
  {
    name: 'an old snapshot and a lock',
    async do(lab, dice) {
      const client = new pg.Client({ connectionString: lab.serverUrl })
      client.on('error', () => {})
      await client.connect()
      const forMs = dice.whole(500, 3_000)
      try {
        await client.query('begin isolation level repeatable read')
        await client.query(lab.sql('select count(*) from millrace.ready'))
        await client.query(lab.sql('lock table millrace.ready in exclusive mode'))
        await sleep(forMs)
      } finally {
        await client.end().catch(() => {})
      }
      return `${forMs} ms`
    },
  },
]

async function loseStatements(lab: Lab, dice: Dice, how: 'cutBeforeServer' | 'cutBeforeAnswer'): Promise<string> {
  const lately = lab.proxies.flatMap(({ requests }) => requests.slice(-LATELY_REQUESTS))
  const statement = dice.pick(STATEMENTS.filter((name) => lately.some(matcherOf(name, lab.schema))))
  const times = dice.whole(1, 4)
  const match = matcherOf(statement, lab.schema)
  const faults = lab.proxies.map((proxy: WireProxy) => proxy[how](match, times))
  const count = () => faults.reduce((sum, fault) => sum + fault.count, 0)
  const untilMs = systemClock.steadyMs() + CUT_MS_MAX
  while (count() < times && systemClock.steadyMs() < untilMs) await sleep(LOOK_EVERY_MS)
  for (const fault of faults) fault.cancel()
  return `${statement}, ${count()} times`
}

async function restart(lab: Lab, dice: Dice, mode: 'fast' | 'immediate'): Promise<string> {
  await lab.server.stop(mode)
  const forMs = dice.pick([0, dice.whole(0, lab.nodeLimitMs * 2)])
  await sleep(forMs)
  await lab.serverIsUp()
  return `${mode}, away for ${forMs} ms`
}

async function stopped(process: Lab['engines'][number]['process']): Promise<string> {
  try {
    const { released, outboxed } = await process.stop(STOP_MS)
    return `${released} released, ${outboxed} in the outbox`
  } catch (error) {
    return `stop failed: ${(error as Error).message}`
  }
}

/** Takes all room of a disk that the lab made. @returns what gives it back */
function fill(folder: string): () => void {
  const path = join(folder, 'ballast')
  try {
    for (let room = roomOf(folder); room > 0; room = roomOf(folder))
      writeFileSync(path, BALLAST_PIECE.subarray(0, Math.min(BALLAST_PIECE.length, room)), { flag: 'a' })
  } catch {
    // full
  }
  return () => rmSync(path, { force: true })
}

function roomOf(folder: string): number {
  const { bavail, bsize } = statfsSync(folder)
  return bavail * bsize
}
