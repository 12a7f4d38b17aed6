// Every statement that changes something is lost once before it reaches the server: nothing is lost, doubled or stuck.
// The table is faults/cuts.ts; faults-answers.test.ts loses the answers, faults-lab.test.ts does everything else.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CUTS, NOT_CUT } from './faults/cuts.ts'
import { playCuts } from './faults/play.ts'
import { statementsOf } from './faults/statements.ts'
import { openStore } from './support/store.ts'

test('the table of cuts has a row for every statement that changes something, and no other', async () => {
  const it = await openStore()
  try {
    // stable and immutable functions cannot write
    const reads = await it.query<{ name: string }>(
      `select p.proname as name from pg_proc p where p.pronamespace = $1::regnamespace
       group by 1 having bool_and(p.provolatile <> 'v')`,
      [it.db.schema],
    )
    const found = statementsOf(new Set(reads.map(({ name }) => name)))
    const rows = new Set([...CUTS.map(({ statement }) => statement), ...Object.keys(NOT_CUT)])
    assert.deepEqual(
      found.filter(({ name }) => !rows.has(name)).map(({ name, files }) => `${name} (${files.join(', ')})`),
      [],
      'these need a row in test/faults/cuts.ts: what makes an engine send them, and what is true when they are lost',
    )
    assert.deepEqual(
      [...rows].filter((name) => !found.some((statement) => statement.name === name)),
      [],
      'nothing sends these any more',
    )
  } finally {
    await it.close()
  }
})

playCuts('before the server')
