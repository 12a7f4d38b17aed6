// The parent's side: one measurement in one process, which is gone afterwards, however it ended.

import { fork } from 'node:child_process'
import type { Reply, Request, Verbs } from './child.ts'

const STDERR_CHARS_MAX = 16_384
const ASK_MS_MAX = 170_000

export async function ask<Verb extends keyof Verbs>(
  system: string,
  url: string,
  verb: Verb,
  ...args: Parameters<Verbs[Verb]>
): Promise<Awaited<ReturnType<Verbs[Verb]>>> {
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
  let timer: NodeJS.Timeout | undefined
  try {
    const reply = await new Promise<Reply>((resolve) => {
      timer = setTimeout(() => resolve({ error: `no answer within ${ASK_MS_MAX} ms` }), ASK_MS_MAX)
      child.once('message', (answer: Reply) => resolve(answer))
      child.once('close', () => resolve({ error: 'ended' }))
      child.send({ system, url, verb, args } satisfies Request)
    })
    if ('error' in reply) throw new Error(`bench: ${system}, ${verb}: ${reply.error}\n${stderr}`)
    return reply.value as Awaited<ReturnType<Verbs[Verb]>>
  } finally {
    clearTimeout(timer)
    child.kill('SIGKILL')
    await gone
  }
}
