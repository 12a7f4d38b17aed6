// `npm run mutants`: breaks one line at a time and runs the test that must notice. The lines and their tests stand in
// test/mutants/list.ts. Run by hand: the whole list takes about as many minutes as it has tens of entries.
//
//   npm run mutants                              all of them
//   npm run mutants -- fencing cron              those whose name, file or test contains one of the words
//   npm run mutants -- --jobs 4                  four at a time (default: 2)
//   npm run mutants -- --check                   only checks that the list fits the sources
//
// Works in temporary copies, never in the working tree. DATABASE_URL names the server; without it an embedded one is
// started for all. The exit code is 0 when every mutation was noticed.
//
// A mutation is killed when its test fails, or does not end in time. Before that the test must have passed without it.
// STALE says that the line is not there, or more than once; BROKEN that the mutated file cannot be compiled (or the
// mutated SQL not be migrated), or that the test fails, or does not exist, without the mutation.

import { execFileSync, spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import pg from 'pg'
import { openEmbedded } from '../engine/store/embedded.ts'
import { MUTANTS } from '../test/mutants/list.ts'
import type { Mutant } from '../test/mutants/mutant.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url)) // from dist/scripts/
const TEST_MS_MAX = 120_000
const TOOL_MS_MAX = 60_000
const CLOSE_MS_MAX = 2_000
const TSC = 'node_modules/typescript/bin/tsc'

type Verdict = 'killed' | 'SURVIVED' | 'STALE' | 'BROKEN'

interface Finding {
  readonly verdict: Verdict
  readonly why: string
}

const { values: flags, positionals: words } = parseArgs({
  allowPositionals: true,
  options: { jobs: { type: 'string', default: '2' }, check: { type: 'boolean', default: false } },
})

async function main(): Promise<number> {
  const jobs = Number(flags.jobs)
  if (!Number.isInteger(jobs) || jobs < 1 || jobs > 64) {
    console.error('--jobs is a whole number from 1 to 64')
    return 64
  }
  const named = (mutant: Mutant) =>
    words.length === 0 || words.some((word) => [mutant.name, mutant.file, mutant.test].some((it) => it.includes(word)))
  const chosen = MUTANTS.filter(named)
  if (chosen.length === 0) {
    console.error(`no mutation matches ${words.join(', ')}`)
    return 64
  }
  const findings = new Map<Mutant, Finding>()
  for (const mutant of chosen) {
    const finding = misfit(mutant)
    if (finding !== null) tell(mutant, finding, findings)
  }
  if (!flags.check) await judgeAll(chosen, jobs, findings)
  return summarize(chosen, findings)
}

/** Why an entry does not fit the sources; null when it does. */
function misfit({ name, file, find, replace, test }: Mutant): Finding | null {
  if (MUTANTS.filter((other) => other.name === name).length > 1)
    return { verdict: 'STALE', why: 'its name comes twice' }
  const { testFile, title } = parse(test)
  for (const path of [file, testFile])
    if (!existsSync(join(ROOT, path))) return { verdict: 'STALE', why: `the list is stale: there is no ${path}` }
  const times = readFileSync(join(ROOT, file), 'utf8').split(find).length - 1
  if (times !== 1) return { verdict: 'STALE', why: `the list is stale: its line is there ${times} times in ${file}` }
  if (find === replace) return { verdict: 'STALE', why: 'it changes nothing' }
  const source = readFileSync(join(ROOT, testFile), 'utf8')
  if (title !== '' && !source.includes(title))
    return { verdict: 'STALE', why: `the list is stale: ${testFile} has no test with "${title}"` }
  return null
}

/** `cron: a window holds` is test/cron.test.ts, the tests whose titles contain "a window holds". */
function parse(test: string): { testFile: string; title: string } {
  const [word, ...rest] = test.split(': ')
  return { testFile: `test/${word}.test.ts`, title: rest.join(': ') }
}

async function judgeAll(chosen: readonly Mutant[], jobs: number, findings: Map<Mutant, Finding>): Promise<void> {
  const waiting = chosen.filter((mutant) => !findings.has(mutant))
  const folder = mkdtempSync(join(tmpdir(), 'millrace-mutants-'))
  const abort = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => abort.abort())
  const given = process.env.DATABASE_URL
  const server = given ? null : await openEmbedded({ dataDir: join(folder, 'server') })
  try {
    const databaseUrl = given || server!.url
    const greens = new Map<string, Promise<Finding | null>>()
    const work = async (no: number): Promise<void> => {
      const copy = new Copy(join(folder, `copy-${no}`), databaseUrl, abort.signal)
      for (let mutant = waiting.shift(); mutant !== undefined && !abort.signal.aborted; mutant = waiting.shift()) {
        const green = greens.get(mutant.test) ?? copy.greenOf(mutant.test)
        greens.set(mutant.test, green)
        const finding = (await green) ?? (await copy.judge(mutant))
        if (!abort.signal.aborted) tell(mutant, finding, findings)
      }
    }
    await Promise.all(Array.from({ length: Math.min(jobs, waiting.length) }, (_, no) => work(no)))
  } finally {
    await server?.close()
    if (server !== null) rmSync(server.dataDir, { recursive: true, force: true })
    rmSync(folder, { recursive: true, force: true })
  }
}

/** A copy of the sources and of what was built of them, in which one mutation at a time is made and undone. */
class Copy {
  readonly #path: string
  readonly #databaseUrl: string
  readonly #signal: AbortSignal

  constructor(path: string, databaseUrl: string, signal: AbortSignal) {
    this.#path = path
    this.#databaseUrl = databaseUrl
    this.#signal = signal
    const listed = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], { cwd: ROOT })
    for (const file of listed.toString().split('\0').filter(isWanted)) {
      mkdirSync(dirname(join(path, file)), { recursive: true })
      cpSync(join(ROOT, file), join(path, file))
    }
    cpSync(join(ROOT, 'dist'), join(path, 'dist'), { recursive: true })
    symlinkSync(join(ROOT, 'node_modules'), join(path, 'node_modules'))
  }

  /** Why a test is no witness; null: it passes as things are. */
  async greenOf(test: string): Promise<Finding | null> {
    const { code, output } = await this.#run(test)
    if (code === null) return { verdict: 'BROKEN', why: `"${test}" does not end without the mutation either` }
    if (code !== 0) return { verdict: 'BROKEN', why: `"${test}" fails without the mutation: ${firstFailure(output)}` }
    if (/^# pass 0$/m.test(output)) return { verdict: 'BROKEN', why: `no test is called "${test}"` }
    return null
  }

  async judge({ file, find, replace, test }: Mutant): Promise<Finding> {
    const path = join(this.#path, file)
    const source = readFileSync(path, 'utf8')
    const built = join(this.#path, 'dist', file.replace(/ts$/, 'js'))
    const before = file.endsWith('.ts') ? readFileSync(built) : null
    writeFileSync(
      path,
      source.replace(find, () => replace),
    )
    try {
      const broken = before === null ? await this.#migrates() : await this.#compiles(file)
      if (broken !== null) return { verdict: 'BROKEN', why: broken }
      const { code, output } = await this.#run(test)
      if (code === 0) return { verdict: 'SURVIVED', why: `"${test}" passes` }
      return { verdict: 'killed', why: code === null ? `"${test}" does not end` : firstFailure(output) }
    } finally {
      writeFileSync(path, source)
      if (before !== null) writeFileSync(built, before)
    }
  }

  /** Compiles one file without its types: a mutation need not be correct, but must be a program. */
  async #compiles(file: string): Promise<string | null> {
    const options = ['--target', 'es2023', '--module', 'nodenext', '--rootDir', '.', '--outDir', 'dist']
    const how = ['--ignoreConfig', '--noCheck', '--isolatedModules', '--noResolve', '--verbatimModuleSyntax']
    const args = [TSC, ...how, '--rewriteRelativeImportExtensions', ...options, file]
    const { code, output } = await this.#spawn(args, TOOL_MS_MAX)
    return code === 0 ? null : `it does not compile: ${output.trim().split('\n')[0]}`
  }

  /** Migrates an empty schema with the copy's SQL. */
  async #migrates(): Promise<string | null> {
    const schema = `mutants_${process.pid}_${this.#path.at(-1)}`
    const args = ['dist/engine/main.js', 'migrate', '--database', this.#databaseUrl, '--schema', schema]
    const { code, output } = await this.#spawn(args, TOOL_MS_MAX)
    const client = new pg.Client({ connectionString: this.#databaseUrl })
    await client.connect()
    await client.query(`drop schema if exists "${schema}" cascade`)
    await client.end()
    return code === 0 ? null : `its SQL does not migrate: ${output.trim().split('\n')[0]}`
  }

  #run(test: string): Promise<Ran> {
    const { testFile, title } = parse(test)
    const pattern = title === '' ? [] : [`--test-name-pattern=${title.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&')}`]
    const built = join('dist', testFile.replace(/ts$/, 'js'))
    return this.#spawn(['--test', '--test-reporter=tap', ...pattern, built], TEST_MS_MAX)
  }

  /** A process group of its own, so that nothing of it outlives its bound. */
  #spawn(args: readonly string[], limitMs: number): Promise<Ran> {
    const child = spawn(process.execPath, args, {
      cwd: this.#path,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, DATABASE_URL: this.#databaseUrl },
    })
    let output = ''
    let isOver = false
    child.stdout.on('data', (text) => (output += text))
    child.stderr.on('data', (text) => (output += text))
    const end = () => {
      try {
        process.kill(-child.pid!, 'SIGKILL')
      } catch {
        // gone
      }
    }
    const bound = setTimeout(() => {
      isOver = true
      end()
    }, limitMs)
    this.#signal.addEventListener('abort', end, { once: true })
    return new Promise((resolve, reject) => {
      child.on('error', reject)
      child.on('exit', (code) => {
        clearTimeout(bound)
        this.#signal.removeEventListener('abort', end)
        end() // what the test left behind
        const tell = () => resolve({ code: isOver ? null : (code ?? 1), output })
        child.on('close', tell) // all its output is here
        setTimeout(tell, CLOSE_MS_MAX).unref() // somebody has run away with its output
      })
    })
  }
}

interface Ran {
  /** null: it did not end in time. */
  readonly code: number | null
  readonly output: string
}

/** What a copy needs: nothing of results, and no list of its own that a mutation could not reach. */
function isWanted(file: string): boolean {
  return file !== '' && !/^(results|bench|\.ci)\//.test(file)
}

function firstFailure(tap: string): string {
  return /^ *not ok \d+ - (.*)$/m.exec(tap)?.[1] ?? tap.trim().split('\n')[0] ?? ''
}

function tell(mutant: Mutant, finding: Finding, findings: Map<Mutant, Finding>): void {
  findings.set(mutant, finding)
  console.log(`${finding.verdict.padEnd(8)}  ${mutant.name}  (${mutant.file})`)
  if (finding.verdict !== 'killed') console.log(`          ${finding.why}`)
}

function summarize(chosen: readonly Mutant[], findings: ReadonlyMap<Mutant, Finding>): number {
  const count = (verdict: Verdict) => [...findings.values()].filter((finding) => finding.verdict === verdict).length
  const bad = count('SURVIVED') + count('STALE') + count('BROKEN')
  const left = chosen.length - findings.size
  console.log(
    `${chosen.length} mutations: ${count('killed')} killed, ${count('SURVIVED')} survived, ${count('STALE')} stale, ` +
      `${count('BROKEN')} broken, ${left} not run`,
  )
  return bad > 0 || (left > 0 && !flags.check) ? 1 : 0
}

process.exitCode = await main()
