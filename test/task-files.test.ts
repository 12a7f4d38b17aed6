// What an engine does with the task files that it is given: it refuses to start on none, on broken ones alone, and on two
// definitions of one name; and what defineTask refuses.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { defineTask } from '../engine/index.ts'
import { withEngines } from './support/engine.ts'

const TASK_MODULE = new URL('../engine/index.js', import.meta.url).href
const run = () => 1

async function withFiles(files: Record<string, string>, use: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-files-'))
  try {
    for (const [name, text] of Object.entries(files))
      writeFileSync(join(folder, name), `import { defineTask } from ${JSON.stringify(TASK_MODULE)}\n${text}\n`)
    await use(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const urlOf = (folder: string, name: string) => pathToFileURL(join(folder, name)).href

test('a folder without a task, or with broken files alone, is refused; an empty list gives none on purpose', () =>
  withEngines(async ({ engine, query }) => {
    await withFiles({}, async (folder) => {
      await assert.rejects(engine({ tasks: folder }), {
        code: 'CONFIG_INVALID',
        message: `there is no task: ${folder} holds no .js, .mjs or .cjs file`,
      })
    })
    await withFiles({ 'a.mjs': `export const a = { name: 'a', run() {} }` }, async (folder) => {
      await assert.rejects(engine({ tasks: folder }), {
        code: 'CONFIG_INVALID',
        message: `there is no task: ${urlOf(folder, 'a.mjs')} exports nothing that defineTask returned`,
      })
      await engine({ tasks: folder, claimUnknown: true })
    })
    await withFiles({ 'a.mjs': '\nexport const = 1', 'b.mjs': `throw new Error('no')` }, async (folder) => {
      await assert.rejects(engine({ tasks: folder }), (error: { code: string; message: string }) => {
        assert.equal(error.code, 'TASK_LOAD_FAILED')
        assert.match(error.message, /a\.mjs did not load, SyntaxError: .*a\.mjs:3.*b\.mjs did not load, Error: no /)
        return true
      })
    })
    await engine({ tasks: [] })
    assert.equal((await query('select from millrace.node')).length, 2, 'those that were refused have left')
  }))

test('two definitions of one name are refused, and both places named', () =>
  withEngines(async ({ engine }) => {
    const same = `export const same = defineTask({ name: 'same', run: () => 1 })`
    await withFiles({ 'a.mjs': same, 'b.mjs': same, 'c.mjs': `export * from './a.mjs'` }, async (folder) => {
      const [a, b, c] = ['a.mjs', 'b.mjs', 'c.mjs'].map((name) => urlOf(folder, name))
      const twice = (where: string) => ({
        code: 'CONFIG_INVALID',
        message: `task "same" is defined twice, ${where}`,
      })
      await assert.rejects(engine({ tasks: folder }), twice(`by ${a} and by ${b}`))
      await engine({ tasks: [new URL(a!), new URL(c!)] }) // one definition, exported twice
      const given = defineTask({ name: 'same', inline: true, run })
      await assert.rejects(
        engine({ tasks: [new URL(a!), given] }),
        twice(`by a definition that was given with inline: true and by ${a}`),
      )
      await engine({ tasks: [given, given] })
      const other = defineTask({ name: 'same', inline: true, run })
      await assert.rejects(engine({ tasks: [given, other] }), twice('by one definition that was given and by another'))
    })
    await withFiles({ 'd.mjs': `${same}\nexport const more = defineTask({ name: 'same', run: () => 2 })` }, (folder) =>
      assert.rejects(engine({ tasks: folder }), {
        code: 'CONFIG_INVALID',
        message: `task "same" is defined twice, in ${urlOf(folder, 'd.mjs')}`,
      }),
    )
  }))

test('defineTask refuses options that it does not know, and values that none has', () => {
  const refused = (task: object, message: RegExp) =>
    assert.throws(() => defineTask({ name: 'x', run, ...task } as never), { code: 'CONFIG_INVALID', message })
  refused({ maxAttemts: 3 }, /^task "x": a task has no option "maxAttemts"; did you mean maxAttempts\?$/)
  refused({ zzzzzzzzzz: 3 }, /no option "zzzzzzzzzz"; its options are name, run, module/)
  refused({ priority: 3 }, /no option "priority"/)
  refused({ retry: 'fixed' }, /retry must be a policy such as/)
  refused({ retry: { kind: 'fixd', delayMs: 3 } }, /retry\.kind must be 'exponential', 'fixed', 'table' or 'none'/)
  refused({ retry: { kind: 'fixed' } }, /retry\.delayMs must be given/)
  refused({ retry: null }, /retry must be/)
  refused({ queue: '' }, /queue must be a string of 1 to 255/)
  refused({ queue: 7 }, /queue must be/)
  refused({ group: '\0' }, /group must be/)
  refused({ name: '\ud800' }, /name must be/)
  refused({ name: undefined }, /name must be/)
  refused({ inline: 'yes' }, /inline must be true or false, got "yes"/)
  refused({ module: 7 }, /module must be/)
  refused({ concurrency: 0 }, /concurrency must be/)
  for (const wrong of [undefined, null, 'x', 7])
    assert.throws(() => defineTask(wrong as never), { code: 'CONFIG_INVALID', message: /a task is an object/ })
  defineTask({ name: 'x', run, queue: undefined } as never) // the same as left out
})
