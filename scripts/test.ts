// The test runner behind `npm test`: one PostgreSQL for all files, then node's own runner with its own summary.
//
//   node dist/scripts/test.js                     all files
//   node dist/scripts/test.js store cron          the files whose names contain one of the words
//   node dist/scripts/test.js test/store.test.ts  that file
//   node dist/scripts/test.js --test-only ...     what starts with a dash goes to node
//
// DATABASE_URL names the server; without it an embedded one is started in a temporary folder and removed afterwards.

import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type EmbeddedServer, openEmbedded } from '../engine/store/embedded.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url)) // from dist/scripts/
const ENDING = '.test.js'

const FILES_AT_ONCE = 2
const FILE_MS_MAX = 8 * 60_000 // node applies its bound to whole files; a test that may hang sets its own
const RUN_MS_MAX = 30 * 60_000 // twice what a quiet machine with two cores needs
const KILL_AFTER_MS = 5_000
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

process.exitCode = await main(process.argv.slice(2))

async function main(args: string[]): Promise<number> {
  const options = args.filter((arg) => arg.startsWith('-'))
  const words = args.filter((arg) => !arg.startsWith('-')).map((arg) => basename(arg).replace(/\.test\.[jt]s$/, ''))
  const files = testFiles(words)
  if (files.length === 0) {
    console.error(`no test file matches ${words.join(', ')}`)
    return 64
  }
  if (process.env.DATABASE_URL) return await runNode(files, options, process.env.DATABASE_URL)

  // an interrupt while the server starts must not leave it, or its folder, behind
  let interrupted = false
  for (const signal of SIGNALS) process.on(signal, () => (interrupted = true))
  const folder = mkdtempSync(join(tmpdir(), 'millrace-tests-'))
  let server: EmbeddedServer | undefined
  try {
    server = await openEmbedded({ dataDir: folder })
    return interrupted ? 130 : await runNode(files, options, server.url)
  } finally {
    await server?.close()
    rmSync(server?.dataDir ?? folder, { recursive: true, force: true })
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Built test files that still have a source. A word that is a whole name means that file alone. */
function testFiles(words: string[]): string[] {
  const names = readdirSync(join(ROOT, 'dist', 'test'))
    .filter((name) => name.endsWith(ENDING))
    .map((name) => name.slice(0, -ENDING.length))
    .filter((name) => existsSync(join(ROOT, 'test', `${name}.test.ts`)))
  const wanted = (name: string) => words.some((word) => (names.includes(word) ? name === word : name.includes(word)))
  return names
    .filter((name) => words.length === 0 || wanted(name))
    .sort()
    .map((name) => join('dist', 'test', name + ENDING))
}

/** Node's runner in a process group of its own, so that nothing of it outlives its bound or our end. */
function runNode(files: string[], options: string[], databaseUrl: string): Promise<number> {
  const runner = spawn(
    process.execPath,
    [
      '--test',
      '--test-reporter=spec',
      `--test-concurrency=${FILES_AT_ONCE}`,
      `--test-timeout=${FILE_MS_MAX}`,
      ...options,
      ...files,
    ],
    { cwd: ROOT, stdio: 'inherit', detached: true, env: { ...process.env, DATABASE_URL: databaseUrl } },
  )
  const bound = setTimeout(() => {
    console.error(`the tests were ended: they did not finish within ${RUN_MS_MAX / 60_000} minutes`)
    endGroup(runner)
  }, RUN_MS_MAX)
  const stop = () => endGroup(runner)
  for (const signal of SIGNALS) process.on(signal, stop)
  return new Promise((done) => {
    runner.on('error', (error) => {
      console.error(error)
      done(70)
    })
    runner.on('exit', (code) => {
      clearTimeout(bound)
      signalGroup(runner, 'SIGKILL') // what a test file left behind
      done(code ?? 1)
    })
  })
}

function endGroup(runner: ChildProcess): void {
  signalGroup(runner, 'SIGINT')
  setTimeout(() => signalGroup(runner, 'SIGKILL'), KILL_AFTER_MS).unref()
}

function signalGroup(runner: ChildProcess, signal: NodeJS.Signals): void {
  try {
    process.kill(-runner.pid!, signal)
  } catch {
    // gone
  }
}
