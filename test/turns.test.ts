// Whoever ends a job lets go of its key and of its group's turn, and calls the next of the group: a table over the places
// where a job of a group can stand and the ways in which it can end there.

import assert from 'node:assert/strict'
import { after, before, beforeEach, test } from 'node:test'
import type { ClaimedChunk, Flush } from '../engine/store/types.ts'
import { AttemptRows, OUTCOME } from '../engine/syncer/attempt-rows.ts'
import { violations } from './support/facts.ts'
import { completing, openStore, type StoreBundle } from './support/store.ts'

const HOUR = 3_600_000

let it: StoreBundle
let node: number
let flushNo = 0
before(async () => {
  it = await openStore()
})
after(() => it.close())
beforeEach(async () => {
  await it.empty()
  node = await it.join()
  flushNo = 0
})

/** A job of the group with a key, whose time has passed already. */
const GROUPED = { group: 'g', key: 'k', expiresAtMs: Date.now() - 1 } as const

/** Ends one held run: as failed, unless `extra` says more. */
function ending(chunk: ClaimedChunk, outcome: keyof typeof OUTCOME, extra: Partial<Flush> = {}): Flush {
  const rows = new AttemptRows()
  const error = Buffer.from('{"code":"TASK_FAILED","message":"no"}')
  rows.add(
    chunk.leaseId,
    chunk.firstId,
    chunk.run,
    chunk.attempt,
    OUTCOME[outcome],
    node,
    0,
    1.79e12,
    1.79e12,
    error,
    0,
    error.length,
  )
  return {
    ...completing(++flushNo, node, [chunk]),
    rows: rows.tuples,
    rowEnds: rows.ends,
    rowLeases: rows.leases,
    ...extra,
  }
}

async function claimOne(): Promise<ClaimedChunk> {
  const chunks = await it.claim(node)
  assert.equal(chunks.length, 1, 'one of a group at a time')
  return chunks[0]!
}

async function failWithRetry(chunk: ClaimedChunk): Promise<void> {
  const retry = { leaseId: chunk.leaseId, jobId: chunk.firstId, delayMs: HOUR, attempt: 2, run: 2, rescues: 0 }
  await it.store.flush(node, ending(chunk, 'failed', { retries: [retry] }))
}

async function giveBack(chunk: ClaimedChunk): Promise<void> {
  const { leaseId, firstId, attempt, rank, seq } = chunk
  const release = { leaseId, firstId, count: 1, attempt, run: chunk.run + 1, rescues: 0, rank, seq }
  await it.store.flush(node, ending(chunk, 'released', { releases: [release] }))
}

interface Place {
  /** Puts the job there; answers its id, and who has the turn when that is another. */
  put(ephemeral: boolean): Promise<{ id: number; chunk?: ClaimedChunk; before?: ClaimedChunk }>
  readonly table: 'ready' | 'scheduled' | 'blocked' | 'lease'
  readonly hasTurn: boolean
}

const held = async (ephemeral: boolean, options = {}) => {
  const id = await it.put(1, { ...GROUPED, ephemeral, ...options })
  return { id, chunk: await claimOne() }
}

const PLACES: Readonly<Record<string, Place>> = {
  'waits for its time': {
    table: 'scheduled',
    hasTurn: false,
    put: async (ephemeral) => ({ id: await it.put(1, { ...GROUPED, ephemeral, runAtMs: Date.now() + HOUR }) }),
  },
  'waits for its retry with its turn': {
    table: 'scheduled',
    hasTurn: true,
    put: async (ephemeral) => {
      const { id, chunk } = await held(ephemeral)
      await failWithRetry(chunk)
      return { id }
    },
  },
  'waits for its retry without a turn': {
    table: 'scheduled',
    hasTurn: false,
    put: async (ephemeral) => {
      const { id, chunk } = await held(ephemeral, { retrySkips: true })
      await failWithRetry(chunk)
      await it.query('delete from millrace.ready') // the ticket that its turn left, for nobody
      return { id }
    },
  },
  'is the next of its group': {
    table: 'blocked',
    hasTurn: false,
    put: async (ephemeral) => ({ id: await it.put(1, { ...GROUPED, ephemeral }) }),
  },
  'waits behind another': {
    table: 'blocked',
    hasTurn: false,
    put: async (ephemeral) => {
      await it.put(1, { group: 'g' })
      const chunk = await claimOne()
      return { id: await it.put(1, { ...GROUPED, ephemeral }), before: chunk }
    },
  },
  'was given back with its turn': {
    table: 'ready',
    hasTurn: true,
    put: async (ephemeral) => {
      const { id, chunk } = await held(ephemeral)
      await giveBack(chunk)
      return { id }
    },
  },
  'came back from its retry with its turn': {
    table: 'ready',
    hasTurn: true,
    put: async (ephemeral) => {
      const { id, chunk } = await held(ephemeral)
      await failWithRetry(chunk)
      await it.query('update millrace.scheduled set run_at = now()')
      await it.store.promote(10)
      return { id }
    },
  },
  'is held': { table: 'lease', hasTurn: true, put: (ephemeral) => held(ephemeral) },
}

const finishedOf = (chunk: ClaimedChunk, id: number, ephemeral = false) => [
  { leaseId: chunk.leaseId, jobId: id, queueId: it.queueId, keyed: true, group: 'g', ephemeral },
]

type End = (id: number, chunk: ClaimedChunk | undefined, ephemeral: boolean) => Promise<unknown>

/** Ends of what waits; of what is held. */
const WAITING_ENDS: Readonly<Record<string, End>> = {
  cancel: (id) => it.query('select millrace.cancel($1, $2)', [id, 'no']),
  purge: async (id) => {
    await it.query("update millrace.job set created_at = now() + interval '1 hour' where id <> $1", [id])
    for (const place of ['scheduled', 'blocked', 'ready'])
      await it.query(`select millrace.purge_waiting($1, $2, 0, now(), 1000, 'no')`, [it.queueId, place])
  },
  'its expiry by the sweep': async () => {
    const { expired } = await it.store.expireDue(100)
    assert.equal(expired, 1)
  },
}

const HELD_ENDS: Readonly<Record<string, End>> = {
  completion: (id, chunk, ephemeral) =>
    it.store.flush(node, completing(++flushNo, node, [chunk!], { finished: finishedOf(chunk!, id, ephemeral) })),
  'its last failure': (id, chunk) => {
    const reason = '{"code":"TASK_FAILED","message":"no"}'
    const dead = { leaseId: chunk!.leaseId, jobId: id, code: 'TASK_FAILED', reason, attempts: 1, run: 1 }
    return it.store.flush(node, ending(chunk!, 'failed', { deads: [dead], finished: finishedOf(chunk!, id) }))
  },
  'a transaction of its handler': async (id, chunk) => {
    await it.query('select millrace.complete($1, $2, 1)', [chunk!.leaseId, id])
    await it.query('delete from millrace.completion')
    await it.query('delete from millrace.lease')
  },
  'a cancel, and its way back': async (id, chunk) => {
    await it.query('select millrace.cancel($1, $2)', [id, 'no'])
    await giveBack(chunk!)
  },
  'a cancel, and its retry': async (id, chunk) => {
    await it.query('select millrace.cancel($1, $2)', [id, 'no'])
    await failWithRetry(chunk!)
  },
  'a cancel, and the death of its node': async (id) => {
    await it.query('select millrace.cancel($1, $2)', [id, 'no'])
    await it.store.rescue(node, 3, true)
    node = await it.join()
  },
  'the death of its last node': async () => {
    await it.store.rescue(node, 1, true)
    node = await it.join()
  },
}

for (const [place, { put, table, hasTurn }] of Object.entries(PLACES))
  for (const [way, end] of Object.entries(table === 'lease' ? HELD_ENDS : WAITING_ENDS))
    for (const ephemeral of way === 'its last failure' ? [false] : [false, true])
      test(`a job of a group that ${place} ends by ${way}${ephemeral ? ', ephemeral' : ''}: its key and its turn are free, and the next runs`, async () => {
        const { id, chunk, before: other } = await put(ephemeral)
        const next = await it.put(1, { group: 'g' })
        const [there] = await it.query<{ n: number }>(
          `select count(*)::int as n from millrace.${table} x where ${
            {
              ready: 'first_id = $1',
              scheduled: 'first_id = $1',
              blocked: 'job_id = $1',
              lease: 'chunks[1].first_id = $1',
            }[table]
          }`,
          [id],
        )
        assert.equal(there!.n, 1, 'it stands where the test wants it')
        const turn = await it.query('select from millrace.hold where job_id = $1', [id])
        assert.equal(turn.length === 1, hasTurn)
        // its ticket is spent by then: who ends the one before writes the next
        if (hasTurn || other !== undefined) await it.query('delete from millrace.ready where count = 0')
        await end(id, chunk, ephemeral)
        assert.deepEqual(await it.query('select job_id from millrace.key'), [])
        assert.deepEqual(await it.query('select job_id from millrace.hold where job_id = $1', [id]), [])
        if (other !== undefined) {
          assert.deepEqual(await it.claim(node), [], 'the one before it has its turn still')
          await it.store.flush(
            node,
            completing(++flushNo, node, [other], {
              finished: [{ ...finishedOf(other, other.firstId)[0]!, keyed: false }],
            }),
          )
        }
        assert.equal((await claimOne()).firstId, next)
        assert.deepEqual(await violations(it.query), [])
      })

test('where the one that is purged had a smaller limit than those behind it, these go on at once', async () => {
  await it.put(1, { group: 'g', groupLimit: 2 })
  await claimOne()
  const alone = await it.put(1, { group: 'g', groupLimit: 1 })
  const next = await it.put(1, { group: 'g', groupLimit: 2 })
  assert.deepEqual(await it.claim(node), [], 'the first of those that wait would be alone')
  await it.query("update millrace.job set created_at = now() + interval '1 hour' where id <> $1", [alone])
  await it.query(`select millrace.purge_waiting($1, 'blocked', 0, now(), 1000, 'no')`, [it.queueId])
  assert.equal((await claimOne()).firstId, next)
})
