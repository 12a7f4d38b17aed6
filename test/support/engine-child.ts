// A process of its own that runs one engine, or only enqueues, and talks over IPC: it says when it is ready, repeats
// the log's lines, and does what it is asked. It ends when its parent goes away. The other end is engine-process.ts.

import { exit } from 'node:process'
import { messageOf } from '../../engine/base/errors.ts'
import type { Log, LogMethod } from '../../engine/base/log.ts'
import { createEngine, type EngineOptions } from '../../engine/index.ts'
import type { FromChild, ToChild } from './engine-process.ts'

const say = (message: FromChild): void => {
  if (process.connected) process.send!(message, undefined, undefined, () => {})
}

const method =
  (level: 'debug' | 'info' | 'warn' | 'error', bindings: Record<string, unknown>): LogMethod =>
  (facts, event) => {
    if (level !== 'debug') say({ kind: 'log', level, event, facts: plain({ ...bindings, ...facts }) })
  }

function logWith(bindings: Record<string, unknown>): Log {
  return {
    debug: method('debug', bindings),
    info: method('info', bindings),
    warn: method('warn', bindings),
    error: method('error', bindings),
    child: (more) => logWith({ ...bindings, ...more }),
  }
}

/** IPC takes JSON: errors as their message. */
function plain(facts: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(facts).map(([key, value]) => [key, value instanceof Error ? messageOf(value) : value]),
  )
}

const options = JSON.parse(process.argv[2]!) as EngineOptions
const engine = createEngine({ ...options, log: logWith({}) })

process.on('disconnect', () => exit(1))
process.on('message', (message: ToChild) => {
  void (async () => {
    const value =
      message.ask === 'stats'
        ? engine.stats()
        : message.ask === 'stop'
          ? await engine.stop(message.timeoutMs)
          : message.ask === 'kill'
            ? await engine.kill()
            : engine.broken
    say({ kind: 'answer', no: message.no, value })
  })()
    .catch((error) => say({ kind: 'refusal', no: message.no, message: messageOf(error) }))
    .finally(() => {
      if (message.ask !== 'stop' && message.ask !== 'kill') return
      // from here on nothing may hold the event loop: a stopped engine lets its process end by itself, also when it failed
      process.removeAllListeners('disconnect')
      process.disconnect?.()
    })
})

try {
  await engine.start()
  say({ kind: 'ready' })
} catch (error) {
  say({ kind: 'failed', message: messageOf(error) })
  exit(70)
}
