// The fault lab's short form: two engine processes, three clients, one fault after the other, always the same ones. Its
// long form, with all faults by chance, is `npm run faults -- --minutes 30`.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isClean, Lab } from './faults/lab.ts'

const MINUTE = 60_000
const SEED = 20_261_129
const FAULTS = [
  'answers of claims lost',
  'the network is away',
  'sessions terminated',
  'PostgreSQL stopped at once',
  'connections used up',
  'an engine killed',
]

test('nothing is lost, doubled or stuck whatever fails, and every answer was true', {
  timeout: 6 * MINUTE,
}, async (t) => {
  const report = await Lab.run({ seed: SEED, forMs: 0, harms: FAULTS, say: (line) => t.diagnostic(line) })
  assert.deepEqual(report.faults.map(({ fault }) => fault).sort(), [...FAULTS].sort())
  assert.ok(report.jobs > 100, `${report.jobs} jobs`)
  const { lost, doubled, stuck, missing, ghosts, broken } = report
  assert.deepEqual(
    { lost, doubled, stuck, missing, ghosts, broken },
    { lost: 0, doubled: 0, stuck: 0, missing: 0, ghosts: 0, broken: [] },
  )
  assert.ok(isClean(report))
})
