// The types of the public API: what is right compiles, what is wrong does not. The fixtures are compiled by the
// compiler of this project as a user's files would be.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const FIXTURES = join(ROOT, 'test', 'types')

function compile(folder: string): { status: number | null; out: string } {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc'), '--pretty', 'false', '-p', join(folder, 'tsconfig.json')],
    { cwd: ROOT, encoding: 'utf8', timeout: 120_000 },
  )
  return { status, out: stdout + stderr }
}

test('a right program compiles, and every wrong line of the fixtures is refused', { timeout: 120_000 }, () => {
  const { status, out } = compile(FIXTURES)
  assert.equal(status, 0, out)
})

test('each wrong line is wrong for the reason that it shows: a name, a payload, an option', {
  timeout: 120_000,
}, () => {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-types-'))
  try {
    for (const name of ['wrong.ts', 'tasks.ts']) {
      const text = readFileSync(join(FIXTURES, name), 'utf8').replaceAll('@ts-expect-error', 'wrong')
      writeFileSync(join(folder, name), text.replaceAll(`'../../engine/`, `'${ROOT}engine/`))
    }
    const typeRoots = [join(ROOT, 'node_modules', '@types')]
    const off = { incremental: false, declaration: false, rewriteRelativeImportExtensions: false }
    const compilerOptions = { ...off, noEmit: true, rootDir: '/', typeRoots }
    const config = { extends: join(ROOT, 'tsconfig.json'), compilerOptions, include: [folder] }
    writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(config))
    const marks = readFileSync(join(FIXTURES, 'wrong.ts'), 'utf8').split('@ts-expect-error').length - 1
    assert.ok(marks >= 15)
    const { out } = compile(folder)
    const errors = out.split('\n').filter((line) => /error TS\d+/.test(line))
    assert.equal(errors.length, marks, out)
    for (const shown of [
      `'"resise"' is not assignable to parameter of type '"ping" | "resize"'`,
      `Property 'width' is missing in type '{ file: string; }'`,
      `'"payload"' is not assignable to parameter of type 'null | undefined'`,
      `Property 'payload' is missing in type '{ task: "resize"; cron: string; }'`,
      `Type '"resise"' is not assignable to type '"ping" | "resize"'`,
      `'prio' does not exist in type 'EnqueueOptions'`,
      `"sometimes"' is not assignable to type '"exponential"`,
      `'thread' does not exist in type`,
    ])
      assert.ok(out.includes(shown), `${shown}\n${out}`)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
