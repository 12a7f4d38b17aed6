// The command line's entry, and the only reader of argv, of the environment and of signals. Everything is handed to
// cli/run.ts as values, so that the commands can be tested without a process.

import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { systemClock } from './base/clock.ts'
import type { Signals } from './cli/context.ts'
import { run } from './cli/run.ts'

// npm and the terminal both pass a Ctrl+C on, so one key press can arrive twice within a moment.
const SAME_PRESS_MS = 250

const signals: Signals = {
  take() {
    let onFirst!: (name: string) => void
    let onSecond!: (name: string) => void
    const first = new Promise<string>((resolve) => {
      onFirst = resolve
    })
    const second = new Promise<string>((resolve) => {
      onSecond = resolve
    })
    let firstMs: number | null = null
    const onSignal = (name: string) => {
      const nowMs = systemClock.steadyMs()
      if (firstMs === null) {
        firstMs = nowMs
        onFirst(name)
      } else if (name !== 'SIGINT' || nowMs - firstMs > SAME_PRESS_MS) onSecond(name)
    }
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, onSignal)
    const release = () => {
      for (const name of ['SIGINT', 'SIGTERM'] as const) process.off(name, onSignal)
    }
    return { first, second, release }
  },
}

const packageJson = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

/** What a person types before the command, so that the hints can be copied. npx puts nothing on the PATH of the shell. */
function calledAs(): string {
  if (!basename(process.argv[1] ?? '').startsWith('millrace')) return 'node engine'
  return process.env.npm_command === 'exec' ? 'npx millrace' : 'millrace'
}

const code = await run({
  argv: process.argv.slice(2),
  env: process.env,
  cwd: process.cwd(),
  stdout: process.stdout,
  stderr: process.stderr,
  program: calledAs(),
  version: packageJson.version,
  nodeVersion: process.version,
  clock: systemClock,
  signals,
  api: () => import('./index.ts'),
})
// Whatever still holds the event loop (a socket that does not close) must not keep a finished command alive.
process.exit(code)
