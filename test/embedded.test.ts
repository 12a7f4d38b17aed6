import assert from 'node:assert/strict'
import test from 'node:test'
import { openTestDatabase } from './support/database.ts'

test('a test database answers', async () => {
  const db = await openTestDatabase()
  assert.deepEqual(await db.query('select 1 as one'), [{ one: 1 }])
  await db.close()
})
