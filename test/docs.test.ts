// The tables in the docs are printed from the code.

import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { ERROR_CODES } from '../engine/base/errors.ts'
import { SETTING_NAMES } from '../engine/config/settings.ts'
import { printInto } from '../scripts/docs.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

test('a printed section names every setting and every error code, and printing again changes nothing', () => {
  const page = [
    '# a',
    '<!-- table:settings -->',
    'stale text',
    '<!-- end -->',
    'b',
    '<!-- table:errors -->',
    '<!-- end -->',
    'c',
    '',
  ]
  const once = printInto(page.join('\n'), 'page.md')
  for (const name of [...SETTING_NAMES, ...Object.keys(ERROR_CODES)]) assert.ok(once.includes(`| \`${name}\` |`), name)
  assert.ok(!once.includes('stale text'))
  assert.match(once, /^# a\n[\s\S]+\nb\n[\s\S]+\nc\n$/)
  assert.equal(printInto(once, 'page.md'), once)
})

test('a section without an end, or of a table that does not exist, is refused', () => {
  assert.throws(() => printInto('<!-- table:settings -->\n', 'p'), /1 tables begin, 0 end/)
  assert.throws(() => printInto('<!-- table:colours -->\n<!-- end -->', 'p'), /no table "colours"/)
})

test('the docs say what the code says', () => {
  for (const file of ['README.md', 'engine/README.md']) {
    const path = join(ROOT, file)
    if (!existsSync(path)) continue
    const text = readFileSync(path, 'utf8')
    assert.equal(printInto(text, file), text, `${file} differs from the code; run npm run docs`)
  }
})
