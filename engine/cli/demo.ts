// `demo [FOLDER]`: the first contact. Fingerprints every file under a folder, one job per file, on all threads, and
// keeps the results. It uses a queue of its own, so that it disturbs nothing and nothing disturbs it.

import { existsSync } from 'node:fs'
import { relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Found, walk } from '../demo/walk.ts'
import type { Engine, EngineStats } from './api.ts'
import type { Cli } from './context.ts'
import { styled } from './styled.ts'
import { printTable } from './table.ts'
import { count, megabytes, plural, rate, span } from './text.ts'

const TASKS = fileURLToPath(new URL('../demo/tasks/', import.meta.url))
const LOOK_MS = 100 // fast enough for a bar that moves, far too slow to cost anything

/** Resolves with the exit code. */
export async function demo(cli: Cli, folder: string): Promise<number> {
  const { terminal, clock } = cli
  const { values: settings } = await cli.config()
  const root = resolve(cli.cwd, folder)
  const found = await walk(root)
  const queue = `demo-${new Date(clock.wallMs()).toISOString().replace(/\D/g, '').slice(2, 14)}`
  const near = relative(cli.cwd, root) || '.'
  const where = near.startsWith('..') ? root : near
  terminal.print(
    `Fingerprinting ${plural(found.paths.length, 'file')} (${megabytes(found.bytes)}) under ${where}: ` +
      `SHA-256, gzip size and line count, one job per file, ${plural(settings.threads, 'thread')}.`,
  )
  if (found.more) terminal.print(`The folder holds more; the demo takes the first ${count(found.paths.length)}.`)
  if (settings.database === null) {
    const first = existsSync(resolve(cli.cwd, settings.dataDir)) ? '' : '; the first start takes a few seconds'
    terminal.note(styled('dim', `Embedded PostgreSQL in ${settings.dataDir}${first}.`))
  }

  const engine = (await cli.api()).createEngine({
    ...settings,
    tasks: TASKS,
    queues: [queue],
    embedded: true, // it is a demo wherever it runs
    log: await cli.log('stderr'),
  })
  const signals = cli.signals.take()
  let leaving = false
  const leave = signals.second.then(async () => {
    leaving = true
    await Promise.race([engine.kill().catch(() => undefined), clock.sleep(2_000)])
    return 1
  })
  try {
    const shown = show(cli, engine, { found, queue, threads: settings.threads, asked: signals.first })
    const code = await Promise.race([leave, shown])
    return leaving ? 1 : code
  } finally {
    signals.release()
  }
}

interface Run {
  readonly found: Found
  readonly queue: string
  readonly threads: number
  readonly asked: Promise<string>
}

async function show(cli: Cli, engine: Engine, { found, queue, threads, asked }: Run): Promise<number> {
  const { terminal, clock } = cli
  const stopped = new AbortController()
  void Promise.race([asked, terminal.gone]).then(() => stopped.abort())
  const up = await Promise.race([engine.start().then(() => true), asked.then(() => false)])
  if (!up) {
    await engine.stop()
    return 0
  }
  try {
    const total = found.paths.length
    const bar = await terminal.bar(total)
    const beganMs = clock.steadyMs()
    const { ids } = await engine.enqueueMany(
      'fingerprint',
      found.paths.map((path) => ({ path })),
      { queue },
    )
    const enqueuedMs = clock.steadyMs()
    let now = engine.stats()
    while (now.completed + now.dead < total && !stopped.signal.aborted) {
      await clock.sleep(LOOK_MS, stopped.signal)
      now = engine.stats()
      const speed = `${rate(perSecond(now.completed, clock.steadyMs() - beganMs))} jobs/s`
      bar?.update(Math.min(total, now.completed + now.dead), speed)
    }
    const tookMs = clock.steadyMs() - beganMs
    bar?.stop()
    summarize(cli, {
      found,
      queue,
      threads,
      now,
      tookMs,
      enqueueMs: enqueuedMs - beganMs,
      firstId: ids[0]!.first,
    })
    const left = total - now.completed - now.dead
    if (left > 0) {
      terminal.note(`Stopped early; ${plural(left, 'job')} stay in the queue. To finish them:`)
      terminal.note(`  ${cli.command('start', '--tasks', TASKS, '--queues', queue)}`)
    }
  } finally {
    await engine.stop()
  }
  return 0
}

interface Outcome extends Omit<Run, 'asked'> {
  readonly now: EngineStats
  readonly tookMs: number
  readonly enqueueMs: number
  readonly firstId: number
}

function summarize(cli: Cli, { found, queue, threads, now, tookMs, enqueueMs, firstId }: Outcome): void {
  const { terminal } = cli
  const total = found.paths.length
  const share = (now.completed + now.dead) / total // of the bytes too, near enough when stopped early
  const bytesPerSecond = perSecond(found.bytes * share, tookMs)
  if (terminal.json) {
    terminal.record({
      files: total,
      bytes: found.bytes,
      threads,
      queue,
      seconds: Math.round(tookMs) / 1_000,
      enqueueMs: Math.round(enqueueMs),
      jobsPerSecond: Math.round(perSecond(now.completed, tookMs)),
      megabytesPerSecond: Math.round(bytesPerSecond / 1e5) / 10,
      completed: now.completed,
      retried: now.retried,
      dead: now.dead,
      waitMs: now.waitMs,
      runMs: now.runMs,
      firstId,
    })
    return
  }
  terminal.print()
  printTable(
    terminal,
    [{ head: '' }, { head: '', align: 'right' }],
    [
      ['files', `${count(now.completed)} of ${count(total)}`],
      ['read', megabytes(found.bytes * share)],
      ['time', span(tookMs)],
      ['enqueued in', span(enqueueMs)],
      ['speed', `${rate(bytesPerSecond / 1e6)} MB/s`],
      ['jobs', `${rate(perSecond(now.completed, tookMs))} jobs/s`],
      ['waited', `p50 ${span(now.waitMs.p50)}, p99 ${span(now.waitMs.p99)}`],
      ['ran', `p50 ${span(now.runMs.p50)}, p99 ${span(now.runMs.p99)}`],
      ['retries', count(now.retried)],
      ['dead letters', count(now.dead)],
    ],
  )
  terminal.print()
  terminal.print('Every result is kept. Have a look:')
  terminal.print('  ', styled('cyan', cli.command('jobs', '--queue', queue, '--limit', '5')))
  terminal.print('  ', styled('cyan', cli.command('explain', String(firstId))))
  if (now.dead > 0) terminal.print('  ', styled('cyan', cli.command('dead', 'list', '--queue', queue)))
}

function perSecond(amount: number, ms: number): number {
  return (amount * 1_000) / Math.max(1, ms)
}
