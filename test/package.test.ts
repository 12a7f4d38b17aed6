// The package as its users get it: packed, installed somewhere else without any install script, run from there.

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, posix } from 'node:path'
import { after, test } from 'node:test'
import { install, pack, run } from './support/empty-folder.ts'

const TASKS = `
import { defineTask } from 'millrace'
export const add = defineTask({
  name: 'add',
  module: import.meta.url,
  run: ({ a, b }) => ({ sum: a + b }),
})
`
const SCRIPT = `
import { createEngine } from 'millrace'
import { add } from './tasks/add.mjs'
const engine = createEngine({ tasks: [add], threads: 1 })
await engine.start()
const { id } = await engine.enqueue('add', { a: 2, b: 3 })
await engine.drain()
const job = await engine.console.job(id)
await engine.stop()
console.log(JSON.stringify({ state: job.state, result: job.result }))
`

const TRIAL = `
import { createTestKit } from 'millrace/testing'
import { add } from './tasks/add.mjs'
const kit = await createTestKit({ tasks: [add] })
const { id } = await kit.enqueue('add', { a: 2, b: 3 }, { delayMs: 60_000 })
await kit.advance('2m')
const [job] = await kit.assertCompleted(id)
await kit.close()
console.log(JSON.stringify({ state: job.state, result: job.result }))
`

const folder = mkdtempSync(join(tmpdir(), 'millrace-package-'))

after(() => rmSync(folder, { recursive: true, force: true }))

test('packed and installed elsewhere without install scripts, the command works, and the module runs a job on its own server', {
  timeout: 4 * 60_000,
}, async (t) => {
  const { file, paths } = await pack(folder)
  for (const wanted of [
    'dist/engine/index.js',
    'dist/engine/index.d.ts',
    'dist/engine/testing/index.js',
    'dist/engine/testing/index.d.ts',
    'dist/engine/main.js',
    'dist/threads/task-thread.js',
    'engine/index.js',
  ]) {
    assert.ok(paths.includes(wanted), `${wanted} is in the package`)
  }
  assert.ok(paths.some((path) => path.endsWith('.sql')))
  const foreign = paths.filter((path) => /^(dist\/)?(test|bench|scripts)\//.test(path))
  assert.deepEqual(foreign, [], 'nothing that only the repository needs')

  const home = join(folder, 'home')
  if (!(await install(home, [file]))) {
    t.skip('no package registry is reachable')
    return
  }

  const help = await run('npx', ['--no-install', 'millrace', '--help'], { cwd: home, timeout: 60_000 })
  for (const word of ['start', 'enqueue', 'explain']) assert.match(help.stdout, new RegExp(`\\b${word}\\b`))

  mkdirSync(join(home, 'tasks'))
  writeFileSync(join(home, 'tasks', 'add.mjs'), TASKS)
  writeFileSync(join(home, 'main.mjs'), SCRIPT)
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(DATABASE_URL$|PG|MILLRACE_)/.test(name)),
  )
  const script = await run(process.execPath, ['main.mjs'], { cwd: home, env, timeout: 60_000 })
  assert.deepEqual(JSON.parse(script.stdout), { state: 'completed', result: { sum: 5 } })

  writeFileSync(join(home, 'trial.mjs'), TRIAL)
  const trial = await run(process.execPath, ['trial.mjs'], { cwd: home, env, timeout: 60_000 })
  assert.deepEqual(JSON.parse(trial.stdout), { state: 'completed', result: { sum: 5 } })
})

test('whatever the pages of the package link to is in the package', { timeout: 60_000 }, async () => {
  const { paths } = await pack(folder)
  const pages = paths.filter((path) => path.endsWith('.md'))
  assert.ok(pages.includes('README.md') && pages.includes('CHANGELOG.md'))
  const missing = pages.flatMap((page) => {
    const text = readFileSync(new URL(`../../${page}`, import.meta.url), 'utf8')
    const targets = [...text.matchAll(/\]\(([^)\s#]+)(?:#[^)]*)?\)/g)].map((match) => match[1]!)
    return targets
      .filter((target) => !/^[a-z]+:/.test(target))
      .map((target) => posix.join(posix.dirname(page), target))
      .filter((target) => !paths.includes(target))
      .map((target) => `${page} links to ${target}`)
  })
  assert.deepEqual(missing, [])
})
