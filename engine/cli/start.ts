// `start`: runs an engine until it is told to end. A person sees a readable startup and a summary now and then; a
// machine gets JSON lines. First signal: no new work, finish or release within the deadline, flush, exit 0. Second:
// release and leave, exit 1.

import type { Log } from '../base/log.ts'
import type { Settings } from '../config/settings.ts'
import type { Engine, EngineStats } from './api.ts'
import { shown } from './config.ts'
import type { Cli } from './context.ts'
import { type Part, styled, Text } from './styled.ts'
import { count, lackingNode, plural, rate, span } from './text.ts'

/** Why `start` ends when nobody asked for it. */
const ITSELF = 'the engine stopped itself'
const ITSELF_EXIT = 70 // EX_SOFTWARE, so that a supervisor starts it again

/** Resolves with the exit code. */
export async function start(cli: Cli): Promise<number> {
  const { values: settings, warnings } = await cli.config()
  const log = await cli.log('stdout')
  const people = speaksText(cli, settings)
  for (const warning of warnings) log.warn({ warning }, 'config.unused')
  if (people) greet(cli, settings)
  else
    log.info({ version: cli.version, node: cli.nodeVersion, pid: process.pid, schema: settings.schema }, 'start.begun')

  const engine = (await cli.api()).createEngine({ ...settings, log })
  const signals = cli.signals.take()
  const end = Promise.race([
    signals.first,
    cli.terminal.gone.then(() => 'nobody reads the output'),
    engine.stopped.then(() => ITSELF),
  ])
  const startedMs = cli.clock.steadyMs()
  let leaving = false
  const leave = signals.second.then(() => {
    leaving = true
    return leaveNow(cli, engine, log, people)
  })
  try {
    const whole = (async () => {
      const up = await Promise.race([engine.start().then(() => true), end.then(() => false)])
      if (!up) return await stop(cli, engine, await end, settings, log, people)
      const tookMs = cli.clock.steadyMs() - startedMs
      if (people) readyLines(cli, tookMs)
      else log.info({ tookMs: Math.round(tookMs) }, 'start.ready')
      await summariesUntil(cli, engine, end, settings, log, people)
      return await stop(cli, engine, await end, settings, log, people)
    })()
    const code = await Promise.race([whole, leave])
    return leaving ? 1 : code
  } finally {
    signals.release()
  }
}

/** True when the output of `start` is for people. */
export function speaksText(cli: Cli, settings: Settings): boolean {
  if (cli.terminal.json || settings.logFormat === 'json') return false
  return settings.logFormat === 'text' || cli.terminal.interactive
}

function readyLines({ terminal }: Cli, tookMs: number): void {
  terminal.print(styled('green', 'Ready'), ` in ${span(tookMs)}. Stop with Ctrl+C.`)
  terminal.print()
}

function greet({ terminal, version, nodeVersion }: Cli, settings: Settings): void {
  terminal.print(styled('bold', `Millrace ${version}`), ` on Node ${nodeVersion.replace(/^v/, '')}`)
  const embedded = settings.database === null
  for (const [label, value] of [
    ['database', embedded ? `embedded PostgreSQL in ${settings.dataDir}` : shown('database', settings.database)],
    ['schema', settings.schema],
    ['tasks', settings.tasks],
    ['queues', shown('queues', settings.queues)],
    ['threads', `${plural(settings.threads, 'thread')}, ${count(settings.heldMax)} jobs held at most`],
  ] as const) {
    terminal.print('  ', styled('dim', label.padEnd(9)), ` ${value}`)
  }
}

async function summariesUntil(
  cli: Cli,
  engine: Engine,
  end: Promise<string>,
  { summaryEveryMs }: Settings,
  log: Log,
  people: boolean,
): Promise<void> {
  const lacking = lackingNodes(cli, engine, log, people)
  lacking()
  if (summaryEveryMs === 0) return void (await end)
  const over = new AbortController()
  void end.then(() => over.abort())
  let before = engine.stats()
  let beforeMs = cli.clock.steadyMs()
  let quietSaid = false
  while (!over.signal.aborted) {
    await cli.clock.sleep(summaryEveryMs, over.signal)
    if (over.signal.aborted) return
    const now = engine.stats()
    const nowMs = cli.clock.steadyMs()
    const perSecond = ((now.completed - before.completed) * 1_000) / Math.max(1, nowMs - beforeMs)
    const idle = now.completed === before.completed && now.failed === before.failed && now.held === 0
    if (!people) log.info({ ...now, perSecond: Math.round(perSecond * 10) / 10 }, 'start.summary')
    else if (!idle || !quietSaid) cli.terminal.print(summary(cli, now, perSecond, idle))
    quietSaid = idle
    lacking()
    before = now
    beforeMs = nowMs
  }
}

const LACKING_SAID = 10

/** Says which tasks no running node has although jobs of them wait, whenever there are others than before; keeps nobody waiting. */
function lackingNodes(cli: Cli, engine: Engine, log: Log, people: boolean): () => void {
  let said = ''
  let looking = false
  const look = async () => {
    const rows = await engine.console.unserved()
    const names = JSON.stringify(rows.map(({ task }) => task).sort())
    if (names === said) return
    said = names
    for (const row of rows.slice(0, LACKING_SAID)) {
      if (people) cli.terminal.print(styled('yellow', lackingNode(row)))
      else log.warn({ ...row }, 'start.unserved_task')
    }
    if (rows.length > LACKING_SAID && people) cli.terminal.print(`and ${rows.length - LACKING_SAID} more such tasks`)
  }
  return () => {
    if (looking) return
    looking = true
    look()
      .catch(() => {}) // the next look comes; that PostgreSQL is away is said elsewhere
      .finally(() => {
        looking = false
      })
  }
}

function summary({ clock }: Cli, now: EngineStats, perSecond: number, idle: boolean): Text {
  const time = styled('dim', new Date(clock.wallMs()).toTimeString().slice(0, 8))
  const done = `${count(now.completed)} done`
  if (idle) return Text.of(time, `  ${done}, nothing waits`)
  const parts: Part[] = [
    `${done} (${rate(perSecond)}/s)`,
    `${count(now.running)} running`,
    `${count(Math.max(0, now.held - now.running))} waiting here`,
    now.retried > 0 ? `${count(now.retried)} retried` : '',
    now.dead > 0 ? styled('red', `${count(now.dead)} dead`) : '',
    `run p50 ${span(now.runMs.p50)} p99 ${span(now.runMs.p99)}`,
  ]
  return Text.of(
    time,
    '  ',
    ...parts.filter((part) => part !== '').flatMap((part, i) => (i === 0 ? [part] : [', ', part])),
  )
}

async function stop(
  cli: Cli,
  engine: Engine,
  why: string,
  { stopTimeoutMs }: Settings,
  log: Log,
  people: boolean,
): Promise<number> {
  if (why === ITSELF) {
    if (people) cli.terminal.print(styled('red', 'The engine stopped itself; the log says why.'))
    else log.error({}, 'start.stopped_itself')
    return ITSELF_EXIT
  }
  const { running } = engine.stats()
  if (people) {
    const what = running > 0 ? `waiting up to ${span(stopTimeoutMs)} for ${plural(running, 'running job')}` : 'flushing'
    cli.terminal.print()
    cli.terminal.print(`Stopping (${why}): ${what}. Once more to leave at once.`)
  } else log.info({ why, running, stopTimeoutMs }, 'start.stopping')
  const report = await engine.stop(stopTimeoutMs)
  const { completed } = engine.stats()
  if (people) {
    cli.terminal.print(`Stopped. ${plural(completed, 'job')} done${released(report.released)}.`)
    const named = report.interrupted.slice(0, INTERRUPTED_MAX).map(({ id, task }) => `${id} (${task})`)
    const more = report.interrupted.length - named.length
    if (named.length > 0)
      cli.terminal.print(`Ended at the deadline: ${named.join(', ')}${more > 0 ? ` and ${more} more` : ''}.`)
  } else log.info({ completed, released: report.released, outboxed: report.outboxed }, 'start.stopped')
  return 0
}

function released(jobs: number): string {
  return jobs === 0 ? '' : `, ${plural(jobs, 'job')} released to run elsewhere`
}

/** Jobs that are named when they were ended at the deadline. */
const INTERRUPTED_MAX = 10

/** A store that does not answer must not keep the process from leaving. */
const LEAVE_MS = 2_000

async function leaveNow(cli: Cli, engine: Engine, log: Log, people: boolean): Promise<number> {
  if (people) cli.terminal.print('Leaving at once; what was running is released and will run again.')
  else log.warn({}, 'start.leaving')
  await Promise.race([engine.kill().catch(() => undefined), cli.clock.sleep(LEAVE_MS)])
  return 1
}
