// A node that cannot renew its row stops before others may take over, and judges others only when it can be sure: first
// with a clock that a test moves and a store that hangs, then with two real processes, one of which is cut off.

import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { EngineError } from '../engine/base/errors.ts'
import { silentLog } from '../engine/base/log.ts'
import { Node, type NodeNeeds } from '../engine/node.ts'
import { withBundle } from './support/bundle.ts'
import { endAll } from './support/engine-process.ts'
import { ManualClock, settle, pass as timePasses } from './support/manual-clock.ts'
import { until } from './support/until.ts'
import { wireProxy } from './support/wire-proxy.ts'

const LIMIT_MS = 30_000
const BEAT_MS = 5_000

type Beat = Awaited<ReturnType<NodeNeeds['store']['beat']>>

const ALIVE: Beat = { alive: true, silent: [], cancels: false, overdue: false, expiresInMs: null }

/** A node whose renewals the test answers. */
async function bundle(beatMs = BEAT_MS, limitMs = LIMIT_MS) {
  const clock = new ManualClock()
  const world = {
    clock,
    /** How the store answers a renewal; the default is at once. */
    answer: async (): Promise<Beat> => ALIVE,
    beats: 0,
    ids: 0,
    rescued: [] as number[],
    rescue: async () => ({ reopened: 1, buried: 0, gone: true }),
    /** When it fenced itself, since its start. */
    fencedAtMs: null as number | null,
  }
  const startMs = clock.steadyMs()
  const node = new Node(
    {
      clock,
      log: silentLog,
      store: {
        join: async () => ++world.ids,
        beat: () => {
          world.beats++
          return world.answer()
        },
        rescue: async (nodeId) => {
          world.rescued.push(nodeId)
          return world.rescue()
        },
        leave: async () => true,
        nodesOf: async () => [],
      },
      threads: () => 1,
      onFenced: () => {
        world.fencedAtMs = clock.steadyMs() - startMs
      },
      onCancels: () => {},
      onOverdue: () => {},
      onBeat: () => {},
      deliver: async () => true,
      onRescued: () => {},
    },
    { nodeHeartbeatMs: beatMs, nodeLimitMs: limitMs, rescuesMax: 3, version: '0' },
  )
  await node.start()
  const pass = (ms: number) => timePasses(clock, ms)
  const stop = async () => {
    world.answer = async () => ALIVE
    const stopped = node.stop(false)
    await pass(10_000)
    await stopped
  }
  return { world, node, clock, pass, settle, stop }
}

const never = () => new Promise<never>(() => {})

test('a renewal that hangs: the node stops on its own before its limit, with a margin for others', async () => {
  const { world, node, pass } = await bundle()
  await pass(2 * BEAT_MS) // renewed at 5 s and 10 s
  world.answer = never
  await pass(LIMIT_MS + BEAT_MS)
  assert.notEqual(world.fencedAtMs, null, 'it did not stop')
  const silentMs = world.fencedAtMs! - 2 * BEAT_MS
  assert.ok(silentMs <= 0.9 * LIMIT_MS, `it stopped ${silentMs} ms after its last renewal, others wait ${LIMIT_MS}`)
  assert.ok(silentMs >= 0.5 * LIMIT_MS, `it gave up after ${silentMs} ms`)
  assert.equal(node.isMember, false)
})

test('renewals that fail at once: the same', async () => {
  const { world, pass, stop } = await bundle()
  await pass(BEAT_MS)
  world.answer = async () => {
    throw new EngineError('STORE_UNREACHABLE', 'gone')
  }
  await pass(LIMIT_MS)
  assert.ok(world.fencedAtMs !== null && world.fencedAtMs - BEAT_MS <= 0.9 * LIMIT_MS, `at ${world.fencedAtMs}`)
  await stop()
})

test('renewals that fail at once, with long pauses between them: no pause outlasts the time that is left', async () => {
  const [beatMs, limitMs] = [2_000, 6_000] // as rare as the settings allow, and pauses after a failure are up to 2 s
  for (let round = 0; round < 10; round++) {
    const { world, pass, stop } = await bundle(beatMs, limitMs)
    await pass(beatMs)
    world.answer = async () => {
      throw new EngineError('STORE_UNREACHABLE', 'gone')
    }
    await pass(limitMs)
    const silentMs = (world.fencedAtMs ?? Number.POSITIVE_INFINITY) - beatMs
    assert.ok(silentMs <= 0.9 * limitMs, `it stopped ${silentMs} ms after its last renewal, others wait ${limitMs}`)
    await stop()
  }
})

test('a node that hears from PostgreSQL that others declared it dead stops at once', async () => {
  const { world, node, pass, stop } = await bundle()
  await pass(BEAT_MS)
  assert.equal(node.isMember, true)
  world.answer = async () => ({ ...ALIVE, alive: false })
  await pass(BEAT_MS)
  assert.equal(world.fencedAtMs, 2 * BEAT_MS)
  assert.equal(node.isMember, false)
  await stop()
})

test('a renewal counts from when it was sent: PostgreSQL may have written it then, however late the answer', async () => {
  const { world, pass } = await bundle()
  let tell = (_beat: Beat) => {}
  world.answer = () =>
    new Promise((resolve) => {
      tell = resolve
    })
  await pass(BEAT_MS) // sent at 5 s
  await pass(20_000) // answered at 25 s
  world.answer = never
  tell(ALIVE)
  await pass(LIMIT_MS)
  assert.notEqual(world.fencedAtMs, null, 'it did not stop')
  assert.ok(world.fencedAtMs! - BEAT_MS <= 0.9 * LIMIT_MS, `it stopped at ${world.fencedAtMs}, last sent at ${BEAT_MS}`)
})

test('what follows a renewal and hangs, a rescue, does not keep the node from stopping in time', async () => {
  const { world, pass } = await bundle()
  await pass(LIMIT_MS + BEAT_MS)
  world.answer = async () => ({ ...ALIVE, silent: [7] })
  world.rescue = never
  await pass(BEAT_MS)
  assert.ok(world.rescued.includes(7))
  await pass(LIMIT_MS)
  assert.notEqual(world.fencedAtMs, null, 'it did not stop')
})

test('after an outage others have the time that they would need to say that they live', async () => {
  const { world, pass, stop } = await bundle()
  await pass(LIMIT_MS + BEAT_MS)
  world.answer = async () => {
    throw new EngineError('STORE_UNREACHABLE', 'gone')
  }
  await pass(0.7 * LIMIT_MS) // not long enough to be fenced, and everybody was cut off
  world.answer = async () => ({ ...ALIVE, silent: [7] })
  await pass(0.9 * LIMIT_MS)
  assert.equal(world.rescued.length, 0, 'it judged by a silence that was its own')
  assert.equal(world.fencedAtMs, null)
  await pass(0.5 * LIMIT_MS)
  assert.ok(world.rescued.includes(7))
  await stop()
})

test('a node that has just started judges nobody for as long', async () => {
  const { world, pass, stop } = await bundle()
  world.answer = async () => ({ ...ALIVE, silent: [7] })
  await pass(0.9 * LIMIT_MS)
  assert.equal(world.rescued.length, 0)
  await pass(0.5 * LIMIT_MS)
  assert.ok(world.rescued.includes(7))
  await stop()
})

// ------------------------------------------------------------------ two processes

after(endAll)

test('a node that is cut off ends its handler before another begins that job', { timeout: 120_000 }, () =>
  withBundle(async ({ client, engine, folder, query, url }) => {
    const proxy = await wireProxy(url)
    try {
      const life = { nodeLimitMs: 5_000, nodeHeartbeatMs: 200, statementTimeoutMs: 60_000 }
      const cutOff = engine({ database: proxy.url, ...life })
      const ticks = join(folder, 'ticks')
      const pids = () => new Set(linesOf(ticks).map(([pid]) => pid))
      await client.enqueue('ticking', ticks)
      await until('it runs', () => pids().has(cutOff.pid))
      const other = engine(life)
      await other.ready()
      await until('the other may judge', async () => {
        const rows = await query(`select from millrace.node where started_at < now() - interval '5.5 s'`)
        return rows.length === 2
      })
      proxy.stall()
      const turns = () => linesOf(ticks).filter(([pid]) => pid === other.pid).length
      await until('the other has run it for a while', () => turns() >= 50)
      writeFileSync(`${ticks}.end`, '')
      const all = linesOf(ticks)
      const last = Math.max(...all.filter(([pid]) => pid === cutOff.pid).map(([, atMs]) => atMs))
      const first = Math.min(...all.filter(([pid]) => pid === other.pid).map(([, atMs]) => atMs))
      assert.ok(last < first, `both ran for ${last - first} ms`)
      proxy.resume()
      await other.stop()
      await cutOff.line('engine.rejoined')
      await cutOff.stop()
    } finally {
      proxy.cutAll()
      await proxy.close()
    }
  }),
)

/** Process id and wall time of every whole line. */
function linesOf(path: string): (readonly [pid: number, atMs: number])[] {
  if (!existsSync(path)) return []
  return readFileSync(path, 'utf8')
    .split('\n')
    .slice(0, -1)
    .map((line) => {
      const [pid, atMs] = line.split(' ').map(Number)
      return [pid!, atMs!] as const
    })
}
