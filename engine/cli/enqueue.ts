// `enqueue TASK [JSON]`: writes one job, or N copies of it.

import { EngineError } from '../base/errors.ts'
import { BATCH_JOBS_MAX } from '../base/limits.ts'
import type { EnqueueOptions } from './api.ts'
import { type Cli, withClient } from './context.ts'
import { readJson } from './read.ts'
import { styled } from './styled.ts'
import { plural } from './text.ts'

/** What the command line gave. */
export type EnqueueFlags = { -readonly [Name in keyof EnqueueOptions]: EnqueueOptions[Name] } & { count?: number }

export async function enqueue(cli: Cli, task: string, json: string | undefined, flags: EnqueueFlags): Promise<void> {
  const { count, ...options } = flags
  if (count !== undefined && options.idempotencyKey !== undefined && count > 1) {
    throw new EngineError(
      'VALIDATION',
      '--key and --count exclude each other: only one unfinished job may hold a key',
      {
        field: '--key',
      },
    )
  }
  if (options.runAt !== undefined && options.delayMs !== undefined) {
    throw new EngineError('VALIDATION', '--run-at and --delay exclude each other', { field: '--delay' })
  }
  const payload = json === undefined ? null : readJson(json)
  await withClient(cli, async (client) => {
    if (count === undefined) return one(cli, await client.enqueue(task, payload, options), task)
    const { ids, count: written } = await client.enqueueMany(task, new Array(count).fill(payload), options)
    if (cli.terminal.json) return cli.terminal.record({ task, count: written, ids })
    const said = ids.map(({ first, count: n }) => (n === 1 ? `${first}` : `${first} to ${first + n - 1}`))
    const more = said.length > 3 ? ` and ${said.length - 3} more ranges` : ''
    cli.terminal.print(`Enqueued ${plural(written, 'job')} of ${task}: ${said.slice(0, 3).join(', ')}${more}`)
    cli.terminal.note(styled('dim', `  see them: ${cli.command('jobs', '--task', task)}`))
  })
}

function one(cli: Cli, { id, duplicate }: { id: number; duplicate: boolean }, task: string): void {
  const { terminal } = cli
  if (terminal.json) terminal.record({ task, id, duplicate })
  else if (duplicate)
    terminal.print(
      `Job ${id} holds this key already; nothing was enqueued. See it: ${cli.command('explain', String(id))}`,
    )
  else terminal.print(`Enqueued job ${id} of ${task}. See its life: ${cli.command('explain', String(id))}`)
}

/** Copies in one call. */
export const COUNT_MAX = BATCH_JOBS_MAX
