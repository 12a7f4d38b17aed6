// The parent's side of the child processes: starts them, asks them, and ends every one by its own handle, also when a
// measurement fails or takes longer than it may.

import { type ChildProcess, fork } from 'node:child_process'
import type { Reply, Request, Verbs } from './child.ts'

const STDERR_CHARS_MAX = 16_384
const ASK_MS_MAX = 240_000 // the slowest measurement takes a third of it

/** The verbs of a child, asked from here. */
export interface Hand extends Verbs {
  /** Ends the process, gently or not, and waits until it is gone. */
  end(): Promise<void>
}

/** Runs `work` with a hiring office; everyone hired is gone afterwards. */
export async function withCrew<T>(
  work: (hire: (system: string, url: string) => Promise<Hand>) => Promise<T>,
): Promise<T> {
  const crew: Hand[] = []
  try {
    return await work(async (system, url) => {
      const hand = open()
      crew.push(hand)
      await hand.load(system, url)
      return hand
    })
  } finally {
    await Promise.all(crew.map((hand) => hand.end()))
  }
}

function open(): Hand {
  const child = fork(new URL('./child.js', import.meta.url), {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  })
  let stderr = ''
  child.stderr!.setEncoding('utf8')
  child.stderr!.on('data', (text: string) => {
    stderr = (stderr + text).slice(-STDERR_CHARS_MAX)
  })
  const gone = new Promise<void>((resolve) => child.once('close', () => resolve()))
  let tail: Promise<unknown> = Promise.resolve()

  const ask = (verb: keyof Verbs, args: readonly unknown[]): Promise<unknown> => {
    const answer = tail.then(() => request(child, { verb, args }, () => stderr))
    tail = answer.catch(() => {})
    return answer
  }
  const end = async () => {
    child.kill('SIGKILL')
    await gone
  }
  const hand: Record<string, unknown> = { end }
  const names: Record<keyof Verbs, true> = {
    load: true,
    openProducer: true,
    single: true,
    concurrent: true,
    bulk: true,
    pace: true,
    startWorker: true,
    finish: true,
    drain: true,
    tally: true,
    close: true,
  }
  for (const verb of Object.keys(names) as (keyof Verbs)[]) hand[verb] = (...args: unknown[]) => ask(verb, args)
  return hand as unknown as Hand
}

function request(child: ChildProcess, message: Request, stderr: () => string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const fail = (why: string) => {
      settle()
      reject(new Error(`bench: child ${child.pid}, ${message.verb}: ${why}\n${stderr()}`))
    }
    const onMessage = (reply: Reply) => {
      if ('error' in reply) return fail(reply.error)
      settle()
      resolve(reply.value)
    }
    const onClose = () => {
      if (message.verb !== 'close') return fail('ended')
      settle()
      resolve(undefined)
    }
    const timer = setTimeout(() => fail(`no answer within ${ASK_MS_MAX} ms`), ASK_MS_MAX)
    const settle = () => {
      clearTimeout(timer)
      child.off('message', onMessage)
      child.off('close', onClose)
    }
    child.on('message', onMessage)
    child.on('close', onClose)
    if (!child.connected) return fail('is gone')
    child.send(message)
  })
}
