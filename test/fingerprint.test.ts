// The demo's task and its walk over a folder.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { gunzipSync, gzipSync } from 'node:zlib'
import { isTask, type TaskContext } from '../engine/base/task.ts'
import { type Fingerprint, fingerprint } from '../engine/demo/tasks/fingerprint.ts'
import { walk } from '../engine/demo/walk.ts'

const folder = mkdtempSync(join(tmpdir(), 'millrace-fingerprint-'))
after(() => rmSync(folder, { recursive: true, force: true }))

const context = {} as TaskContext // the task uses none of it

function of(name: string, content: string | Buffer): Fingerprint {
  const path = join(folder, name)
  writeFileSync(path, content)
  return fingerprint.run({ path }, context) as Fingerprint
}

test('a fingerprint is the SHA-256, the gzip size and the lines of the content', () => {
  const content = 'one\ntwo\nthree'
  assert.ok(isTask(fingerprint))
  assert.deepEqual(of('a', content), {
    path: join(folder, 'a'),
    bytes: 13,
    sha256: createHash('sha256').update(content).digest('hex'),
    gzipBytes: gzipSync(content).length,
    lines: 3,
  })
  assert.equal(gunzipSync(gzipSync(content)).toString(), content)
})

test('lines are counted as editors count them', () => {
  assert.equal(of('b', '').lines, 0)
  assert.equal(of('b', 'x').lines, 1)
  assert.equal(of('b', 'x\n').lines, 1)
  assert.equal(of('b', '\n\n').lines, 2)
  assert.equal(of('b', Buffer.from([0, 10, 255])).lines, 2)
})

test('a large file is read up to a bound, and the result says so', () => {
  const path = join(folder, 'large')
  writeFileSync(path, '')
  truncateSync(path, 33 * 1024 * 1024)
  const result = fingerprint.run({ path }, context) as Fingerprint
  assert.equal(result.bytes, 33 * 1024 * 1024)
  assert.equal(result.truncatedAt, 32 * 1024 * 1024)
})

test('a file that vanished is an error that names it, and is tried again', () => {
  const path = join(folder, 'gone')
  assert.throws(() => fingerprint.run({ path }, context), /gone: the file is gone since the folder was listed/)
  assert.equal(fingerprint.maxAttempts, 3)
})

test('the walk takes regular files only, follows no link, and stops at its bound', async () => {
  const root = join(folder, 'tree')
  mkdirSync(join(root, 'deep', 'deeper'), { recursive: true })
  for (const name of ['a', 'deep/b', 'deep/deeper/c']) writeFileSync(join(root, name), '12345')
  symlinkSync(root, join(root, 'deep', 'loop'))
  symlinkSync(join(root, 'a'), join(root, 'link'))
  const all = await walk(root)
  assert.deepEqual(
    [...all.paths].sort(),
    ['a', 'deep/b', 'deep/deeper/c'].map((name) => join(root, name)),
  )
  assert.equal(all.bytes, 15)
  assert.equal(all.more, false)
  const some = await walk(root, 2)
  assert.equal(some.paths.length, 2)
  assert.equal(some.more, true)
  mkdirSync(join(root, 'empty'))
  await assert.rejects(walk(join(root, 'empty')), { code: 'VALIDATION' })
})
