// The style, checked: facts about the sources that a reviewer would otherwise have to look for. Each test fails with
// sentences that name the file, the line and the rule; the rules and their exceptions are data in support/tidy-rules.ts.
// Taste is not checked: nobody counts lines.

import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { ERROR_CODES } from '../engine/base/errors.ts'
import { CHUNK_JOBS_MAX, MAX_ATTEMPTS_MAX, PARTITION_JOBS, PRIORITY_MAX, PRIORITY_MIN } from '../engine/base/limits.ts'
import { SETTING_NAMES } from '../engine/config/settings.ts'
import { DURABLE_STATES, OUTCOME } from '../engine/orchestrator/states.ts'
import {
  AMBIENT,
  CODES_IN_WAITING,
  CODES_OF_OTHERS,
  FLOORS,
  FUNCTIONS_FOR_OTHERS,
  PACKAGE_HOMES,
  SINGLE_FILE,
  SINGLE_FILE_FLOOR,
  STATES_BESIDE,
  STATES_NOT_SHOWN,
} from './support/tidy-rules.ts'
import {
  filesUnder,
  type Import,
  importsOf,
  lineOf,
  ROOT,
  readText,
  repositoryFiles,
  type Source,
  sourcesOf,
} from './support/tidy-source.ts'

const files = repositoryFiles()
const engine = sourcesOf(['engine', 'threads'])
const tests = sourcesOf(['test'])
const around = sourcesOf(['bench', 'scripts'])
const imports = engine.flatMap(importsOf)
const sql = filesUnder('engine/store')
  .filter((path) => path.endsWith('.sql'))
  .sort()
  .map((path) => ({ path, text: readText(path) }))

// ------------------------------------------------------------------ floors

interface Place {
  readonly part: string
  readonly floor: number
}

function placeOf(path: string): Place | null {
  const row = FLOORS.find(({ files }) => files.test(path))
  if (row !== undefined) return row
  const name = SINGLE_FILE.exec(path)?.[1]
  return name === undefined ? null : { part: name, floor: SINGLE_FILE_FLOOR }
}

test('every file of the engine stands on a floor, and imports its own part or a lower floor only', () => {
  const faults = engine
    .filter(({ path }) => placeOf(path) === null)
    .map(({ path }) => `${path} stands on no floor: add its folder to FLOORS`)
  for (const { from, to, foreign } of imports) {
    if (foreign || to.startsWith('node:')) continue
    const upper = placeOf(from)
    const lower = placeOf(to)
    if (upper === null) continue
    if (lower === null) faults.push(`${from} imports ${to}, which is no part of the engine`)
    else if (upper.part !== lower.part && upper.floor <= lower.floor)
      faults.push(
        `${from} (${upper.part}, floor ${upper.floor}) imports ${to} (${lower.part}, floor ${lower.floor}): declare a need instead and let engine.ts hand it over`,
      )
  }
  none(faults)
})

test('no file imports itself by way of others', () => {
  const next = new Map<string, string[]>()
  for (const { from, to } of [...imports, ...around.flatMap(importsOf)]) next.set(from, [...(next.get(from) ?? []), to])
  const done = new Set<string>()
  const faults: string[] = []
  const visit = (path: string, way: readonly string[]) => {
    if (way.includes(path)) faults.push([...way.slice(way.indexOf(path)), path].join(' -> '))
    if (done.has(path) || way.includes(path)) return
    for (const to of next.get(path) ?? []) visit(to, [...way, path])
    done.add(path)
  }
  for (const path of next.keys()) visit(path, [])
  none(faults)
})

test('every package that users install has one home, is imported there, and nowhere else', () => {
  const { dependencies } = JSON.parse(readText('package.json')) as { dependencies: Record<string, string> }
  const outside = imports.filter(({ to, foreign }) => foreign || to in PACKAGE_HOMES)
  none([
    ...outside.flatMap(({ from, to, foreign }: Import) => {
      if (foreign && !(to in dependencies)) return [`${from} imports ${to}, which users do not install`]
      const home = PACKAGE_HOMES[to]
      if (home === undefined) return [`${to} has no home yet: add it to PACKAGE_HOMES`]
      return home.test(from) ? [] : [`${from} imports ${to}, whose home is ${home.source}`]
    }),
    ...Object.keys(dependencies)
      .filter((name) => !outside.some(({ to }) => to === name))
      .map((name) => `package.json has ${name}, which nothing imports`),
  ])
})

// ------------------------------------------------------------------ ambient things

test('clocks, timers, chance, output and the process are used in their homes only', () => {
  const faults: string[] = []
  const needed = new Set<string>()
  for (const { what, pattern, homes, exceptions = {} } of AMBIENT) {
    for (const { path, bare } of engine) {
      if (homes.test(path)) continue
      for (const match of bare.matchAll(pattern)) {
        if (path in exceptions) needed.add(`${what} in ${path}`)
        else faults.push(`${path}:${lineOf(bare, match.index)} uses ${match[0]}: ${what} has a home, ${homes.source}`)
      }
    }
    for (const path of Object.keys(exceptions))
      if (!needed.has(`${what} in ${path}`) && engine.some((source) => source.path === path))
        faults.push(`the exception for ${what} in ${path} is not needed any more`)
  }
  none(faults)
})

test('shared memory is reached by the names of threads/layout.ts, never by a number', () => {
  const names = new Set([...readText('threads/layout.ts').matchAll(/^export const ([A-Z_]+) =/gm)].map((m) => m[1]!))
  const faults: string[] = []
  const use = /\bAtomics\.\w+\(\s*([^,()]+),\s*([^,()]+)|\b\w*[hH]eader\[([^\]]+)\]/g
  for (const { path, bare } of engine) {
    const places = [...bare.matchAll(use)]
    if (places.length > 0 && !path.startsWith('threads/'))
      faults.push(`${path} reaches shared memory: that is for threads/`)
    for (const match of places) {
      const place = (match[2] ?? match[3])!.trim()
      if (!names.has(place))
        faults.push(`${path}:${lineOf(bare, match.index)} ${match[0]}: ${place} is not a name of layout.ts`)
    }
  }
  none(faults)
})

// ------------------------------------------------------------------ tables

test('every error code is used, and every code that is used stands in the table', () => {
  const users = [
    ...engine.filter(({ path }) => path !== 'engine/base/errors.ts'),
    ...sql.map((file) => ({ ...file, code: file.text })),
  ]
  const used = (code: string) => users.some(({ code: text }) => new RegExp(`\\b${code}\\b`).test(text))
  const faults = Object.keys(ERROR_CODES)
    .filter((code) => code !== 'INVARIANT' && !used(code) && !(code in CODES_IN_WAITING))
    .map((code) => `nothing uses ${code}`)
  for (const { path, code: text } of users)
    for (const [, code] of text.matchAll(/\bcode'?(?::|,| ===?| !==?) '([A-Z][A-Z_]+[A-Z])'/g))
      if (!(code! in ERROR_CODES) && !CODES_OF_OTHERS.test(code!))
        faults.push(`${path} uses ${code}, which is not in the table`)
  none(faults)
})

test('every setting is used outside the table of settings', () => {
  const users = engine.filter(({ path }) => !path.startsWith('engine/config/'))
  const used = (name: string) => users.some(({ code }) => new RegExp(`\\b${name}\\b`).test(code))
  none(SETTING_NAMES.filter((name) => !used(name)).map((name) => `nothing uses the setting ${name}`))
})

test('the letters and names of outcomes are the same in the code, in the CHECK and in the view', () => {
  const check = /constraint attempt_outcome check \(outcome in \(([^)]+)\)/.exec(sqlText())![1]!
  assert.deepEqual(quoted(check).sort(), Object.values(OUTCOME).sort())
  const names = /case a\.outcome ([\s\S]+?) end as outcome/.exec(sqlText())![1]!
  const shown = Object.fromEntries(
    [...names.matchAll(/when '(\w)' then '(\w+)'/g)].map(([, letter, name]) => [name, letter]),
  )
  const wanted = Object.fromEntries(
    Object.entries(OUTCOME).map(([name, letter]) => [name.replace(/[A-Z]/g, (big) => `_${big.toLowerCase()}`), letter]),
  )
  assert.deepEqual(shown, wanted)
})

test('the view shows the durable states, and the console and the types know the same', () => {
  const states = /\n {2}case\n([\s\S]+?) end as state,/.exec(sqlText())![1]!
  const shown = [...new Set([...states.matchAll(/(?:then|else) '(\w+)'/g)].map((match) => match[1]!))].sort()
  const wanted = DURABLE_STATES.filter((state) => !(state in STATES_NOT_SHOWN))
  assert.deepEqual(shown, [...wanted, ...Object.keys(STATES_BESIDE)].sort())
  const type = /export type JobState =([\s\S]+?)\n\n/.exec(readText('engine/api.ts'))![1]!
  assert.deepEqual(quoted(type).sort(), shown)
})

test('limits that stand in the code and in the tables are the same', () => {
  const text = sqlText()
  const first = (pattern: RegExp) => Number(pattern.exec(text)?.[1])
  assert.equal(first(/v_span constant bigint := (\d+);/), PARTITION_JOBS)
  assert.equal(first(/count between 0 and (\d+)/), CHUNK_JOBS_MAX)
  assert.equal(first(/priority between (-?\d+) and/), PRIORITY_MIN)
  assert.equal(first(/priority between -?\d+ and (\d+)/), PRIORITY_MAX)
  assert.equal(first(/max_attempts between 1 and (\d+)/), MAX_ATTEMPTS_MAX)
})

// ------------------------------------------------------------------ SQL

test('every statement in engine/store/sql says what it is for, and is used', () => {
  const code = engine.map((source) => source.code).join('\n')
  const faults: string[] = []
  const known = new Set<string>()
  for (const { path, text } of sql.filter((file) => file.path.startsWith('engine/store/sql/'))) {
    for (const block of text.split(/^-- name: /m).slice(1)) {
      const [name = '', second = ''] = block.split('\n')
      if (known.has(name)) faults.push(`${path}: the name ${name} is taken twice`)
      known.add(name)
      if (!/^-- \w/.test(second)) faults.push(`${path}: the line under "name: ${name}" should say what it is for`)
      if (!code.includes(`'${name}'`)) faults.push(`${path}: nothing uses ${name}`)
    }
  }
  none(faults)
})

test('every function of the migrations says what it is for, and is used', () => {
  const code = [...engine.map((source) => source.code), ...sql.map(({ text }) => text)].join('\n')
  const faults: string[] = []
  for (const { path, text } of migrations()) {
    const functions = [...text.matchAll(/^create(?: or replace)? function millrace\.(\w+)\(/gm)]
    for (const { 1: name, index } of functions) {
      const above = text.slice(0, index).trimEnd().split('\n').at(-1)!
      // twins may share a comment: the second stands right under the first
      if (!above.startsWith('--') && !above.startsWith('end $$'))
        faults.push(`${path}: ${name} should say what it is for`)
      if (code.split(new RegExp(`\\bmillrace\\.${name}\\b`)).length < 3 && !FUNCTIONS_FOR_OTHERS.has(name!))
        faults.push(`${path}: nothing calls ${name}`)
    }
  }
  none(faults)
})

// ------------------------------------------------------------------ everything that is tracked

test('nothing is left over: no marks for later, no test that is left out or runs alone', () => {
  const marks = new RegExp(`\\b(?:${['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X'].join('|')})\\b`, 'g')
  const alone = /\b(?:test|it|describe|suite)\.(?:only|skip|todo)\(|\b(?:only|skip|todo): true/g
  const faults: string[] = []
  for (const path of files.filter(
    (name) => /\.(?:ts|js|sql|md|json)$|\.ci\/run$/.test(name) && name !== 'package-lock.json',
  )) {
    const text = readText(path)
    for (const match of text.matchAll(marks))
      faults.push(`${path}:${lineOf(text, match.index)} ${match[0]}: do it or drop it`)
  }
  for (const { path, bare } of tests)
    for (const match of bare.matchAll(alone)) faults.push(`${path}:${lineOf(bare, match.index)} ${match[0]}`)
  none(faults)
})

test('no two tests have the same title', () => {
  const seen = new Map<string, string>()
  const faults: string[] = []
  for (const { path, code } of tests.filter(isTestFile)) {
    for (const match of code.matchAll(/\b(?:test|it)\(\s*(?:'((?:[^'\\\n]|\\.)+)'|`((?:[^`\\]|\\.)+)`|"([^"\n]+)")/g)) {
      const title = (match[1] ?? match[2] ?? match[3])!
      if (!/\w{3}/.test(title.replace(/\$\{[^}]*\}/g, ''))) continue // its words stand in a table
      if (seen.has(title)) faults.push(`"${title}" is in ${seen.get(title)} and in ${path}`)
      seen.set(title, path)
    }
  }
  assert.ok(seen.size > 100, `only ${seen.size} titles were found`)
  none(faults)
})

test('no tracked file names a path of one machine or the host of a registry', () => {
  const machine = new RegExp(`(?<![\\w.])/(?:${['home', 'Users'].join('|')})/[a-z]|(?<![\\w./])/(?:root|work)/\\w`, 'g')
  const registry = new RegExp(
    `"${'resol' + 'ved'}"|registry\\.(?:npmjs|yarnpkg)|${'npm' + 'mirror'}|//[\\w.-]+/(?:repository|artifactory)/`,
    'g',
  )
  const faults: string[] = []
  for (const path of files.filter((name) => !/\.(?:svg|png|tgz)$/.test(name))) {
    const text = readText(path)
    for (const pattern of [machine, registry])
      for (const match of text.matchAll(pattern)) faults.push(`${path}:${lineOf(text, match.index)} ${match[0]}`)
  }
  none(faults)
})

test('nothing of the engine imports tests, benchmarks or scripts', () => {
  none(
    imports
      .filter(({ to }) => /^(?:test|bench|scripts)\//.test(to))
      .map(({ from, to }) => `${from} imports ${to}, which users do not have`),
  )
})

test('the pages link to files that exist, and every row of figures to its results', () => {
  const faults: string[] = []
  for (const page of files.filter((name) => name.endsWith('.md'))) {
    const text = readText(page)
    for (const [, target] of text.matchAll(/\]\(([^)\s#]+)(?:#[^)]*)?\)|(?:src|srcset)="([^"]+)"/g)) {
      if (target === undefined || /^[a-z]+:/.test(target)) continue
      if (!existsSync(join(ROOT, page, '..', target))) faults.push(`${page} links to ${target}, which is not there`)
    }
  }
  const figures = /<!-- table:figures -->([\s\S]*?)<!-- end -->/.exec(readText('README.md'))?.[1] ?? ''
  for (const row of figures.split('\n').filter((line) => /^\| .*\d/.test(line)))
    if (!/\]\(results\/[^)]+\)/.test(row)) faults.push(`README.md: this row does not say where it is from: ${row}`)
  none(faults)
})

// ------------------------------------------------------------------ judging

function none(faults: readonly string[]): void {
  assert.equal(faults.length, 0, `\n${faults.join('\n')}\n`)
}

function isTestFile({ path }: Source): boolean {
  return path.endsWith('.test.ts')
}

function migrations() {
  return sql.filter(({ path }) => path.startsWith('engine/store/migrations/'))
}

function sqlText(): string {
  return migrations()
    .map(({ text }) => text)
    .join('\n')
}

function quoted(text: string): string[] {
  return [...text.matchAll(/'(\w+)'/g)].map((match) => match[1]!)
}
