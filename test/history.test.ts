// The witnesses are witnesses: each thing that must not happen is made to happen, in the tables or in what handlers wrote,
// and has to be found. What is right is found right.

import assert from 'node:assert/strict'
import { appendFileSync } from 'node:fs'
import { test } from 'node:test'
import { checkFacts, violations } from './support/facts.ts'
import { type Acknowledged, type CheckOptions, History } from './support/history.ts'
import { openStore } from './support/store.ts'

test('every rule about the tables is seen to be broken when it is', async () => {
  const it = await openStore()
  try {
    const nodeId = await it.join()
    const job = async (options = {}) => it.put(1, options)
    const attempt = (id: number, run: number, outcome: string, fromMs: number, toMs: number) =>
      it.query(
        `insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, started_at, finished_at)
         values ($1, $2, $2, $3, 1, 0, to_timestamp($4 / 1000.0), to_timestamp($5 / 1000.0))`,
        [id, run, outcome, fromMs, toMs],
      )
    const unplace = (id: number) => it.query('delete from millrace.ready where first_id = $1', [id])
    const ended = async (options = {}, fromMs = 1_000, toMs = 2_000) => {
      const id = await job(options)
      await unplace(id)
      await it.query('delete from millrace.blocked where job_id = $1', [id])
      await attempt(id, 1, 'c', fromMs, toMs)
      return id
    }
    const found: [string, number][] = []
    const breaks = async (rule: string, id: number) => {
      found.push([rule, id])
      const now = (await violations(it.query)).map((row) => [row.rule, row.job])
      assert.deepEqual(now.sort(), [...found].sort())
      await assert.rejects(checkFacts(it.query), { name: 'AssertionError' })
    }

    // all is well
    await ended()
    await it.put(10)
    await it.claim(nodeId, 5)
    await ended({ group: 'well' }, 1_000, 2_000)
    await ended({ group: 'well' }, 2_000, 3_000)
    await it.query('delete from millrace.ready where count = 0')
    assert.deepEqual(await violations(it.query), [])

    const lost = await job()
    await unplace(lost)
    await breaks('a job is never lost', lost)

    const twice = await job()
    await attempt(twice, 1, 'c', 1_000, 2_000)
    await breaks('a job stands in one place', twice)

    const risen = await ended()
    await attempt(risen, 2, 'f', 3_000, 4_000)
    await breaks('a terminal state never changes', risen)

    const early = await ended({ runAtMs: 1_000_000 }, 999_000, 1_000_500)
    await it.query('delete from millrace.scheduled where first_id = $1', [early])
    await breaks('nothing before its time', early)

    await ended({ group: 'g' }, 5_000, 6_000)
    const meanwhile = await ended({ group: 'g' }, 5_500, 6_500)
    await breaks('one of a group at a time', meanwhile)

    const held = await job()
    await unplace(held)
    for (let lease = 1; lease <= 2; lease++)
      await it.query(
        'insert into millrace.lease (id, node_id, open, chunks) values ($1, $2, 1, array[row($3, 1, 1, 1, 0, 0, 0)::millrace.chunk])',
        [lease, nodeId, held],
      )
    await breaks('a job has one holder', held)

    const holding = await ended()
    await it.query(
      `insert into millrace.hold (queue_id, group_key, job_id, seat, group_limit) values ($1, 'stuck', $2, 0, 1)`,
      [it.queueId, holding],
    )
    await breaks('who has ended holds no turn', holding)

    const keyed = await ended()
    await it.query(`insert into millrace.key (queue_id, key, job_id) values ($1, 'k', $2)`, [it.queueId, keyed])
    await breaks('who has ended has no key', keyed)
  } finally {
    await it.close()
  }
})

interface Row extends Record<string, unknown> {
  job_id: number
  run: number
  attempt: number
  outcome: string
  result: { run: number; pid: number } | null
}

interface Story {
  readonly facts: Partial<Acknowledged>[]
  lines: string[]
  attempts: Row[]
  states: string[]
  left: Record<string, number>
  options: CheckOptions
}

const completed = (id: number, run = 1, pid = 7): Row => ({
  job_id: id,
  run,
  attempt: run,
  outcome: 'completed',
  result: { run, pid },
})

/** Jobs 1 and 2 of a group, one after the other; job 3 was lost with its holder and run again. */
const RIGHT = (): Story => ({
  facts: [{ group: 'g' }, { group: 'g' }, { runAtMs: 500 }],
  lines: [
    's 1 1 1 7 100',
    'e 1 1 1 7 200',
    's 2 1 1 7 210',
    'e 2 1 1 7 300',
    's 3 1 1 7 510',
    's 3 2 2 7 600',
    'e 3 2 2 7 700',
  ],
  attempts: [
    completed(1),
    completed(2),
    { job_id: 3, run: 1, attempt: 1, outcome: 'lost', result: null },
    completed(3, 2),
  ],
  states: ['completed', 'completed', 'completed'],
  left: { ready: 0, scheduled: 0, blocked: 0, leases: 0, running: 0, holds: 0, keys: 0, uncounted: 0, cancelling: 0 },
  options: { orderedBeforeMs: Number.POSITIVE_INFINITY },
})

async function judge(story: Story) {
  const history = new History()
  try {
    for (const [at, facts] of story.facts.entries()) history.acknowledge(at + 1, facts)
    appendFileSync(history.file, story.lines.map((line) => `${line}\n`).join(''))
    const query = async (sql: string) =>
      sql.includes('millrace.attempts')
        ? story.attempts
        : sql.includes('as ready')
          ? [story.left]
          : story.states.map((state, at) => ({ id: at + 1, state }))
    return await history.check(query as unknown as Parameters<History['check']>[0], story.options)
  } finally {
    history.close()
  }
}

test('a history in which all is right is found right, a lost holder included', async () => {
  const { jobs, executions, again, lost, dead } = await judge(RIGHT())
  assert.deepEqual({ jobs, executions, again, lost, dead }, { jobs: 3, executions: 4, again: 1, lost: 1, dead: 0 })
})

const WRONG: readonly [string, (story: Story) => void, RegExp][] = [
  [
    'a job that never ended',
    (it) => {
      it.states[0] = 'queued'
    },
    /job 1 is queued, not completed/,
  ],
  ['a job that was forgotten', (it) => void it.states.pop(), /job 3 is undefined/],
  [
    'something left behind',
    (it) => {
      it.left.holds = 1
    },
    /holds/,
  ],
  ['two completions', (it) => void it.attempts.splice(1, 0, completed(1, 2)), /completed 2 times|several/],
  ['no completion', (it) => void it.attempts.shift(), /completed 0 times/],
  ['two holders of one run', (it) => void it.lines.push('s 2 1 1 8 900', 'e 2 1 1 8 950'), /had several holders/],
  [
    'a run after the end',
    (it) => void it.attempts.splice(1, 0, { ...completed(1, 2), outcome: 'failed' }),
    /went on after/,
  ],
  ['runs that go backwards', (it) => void it.attempts.splice(3, 1, { ...completed(3, 2), attempt: 0 }), /go backwards/],
  [
    'the result of another run',
    (it) => {
      it.attempts[0]!.result!.run = 2
    },
    /the result of run 2 as run 1/,
  ],
  [
    'a completion by a stranger',
    (it) => {
      it.attempts[0]!.result!.pid = 9
    },
    /who never ran it/,
  ],
  ['a completion amid the work', (it) => void it.lines.splice(1, 1), /completed before its end/],
  [
    'a start before its time',
    (it) => {
      it.lines[4] = 's 3 1 1 7 490'
    },
    /started 10 ms before its time/,
  ],
  [
    'two of a group at a time',
    (it) => {
      it.lines[2] = 's 2 1 1 7 150'
    },
    /ran at the same time/,
  ],
  [
    'a group out of order',
    (it) => void it.lines.splice(0, 4, 's 2 1 1 7 100', 'e 2 1 1 7 200', 's 1 1 1 7 210', 'e 1 1 1 7 300'),
    /ran out of order/,
  ],
]

for (const [what, spoil, message] of WRONG) {
  test(`a history is refused for ${what}`, async () => {
    const story = RIGHT()
    spoil(story)
    await assert.rejects(judge(story), message)
  })
}
