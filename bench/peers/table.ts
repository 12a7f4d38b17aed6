// Who takes part. Each name is a file of this folder.

import type { System } from './system.ts'

export const OURS = 'millrace'
export const PEERS = ['graphile-worker', 'pg-boss', 'bullmq'] as const

export async function loadSystems(names: readonly string[]): Promise<System[]> {
  return Promise.all(names.map(loadSystem))
}

export async function loadSystem(name: string): Promise<System> {
  return ((await import(`./${name}.js`)) as { system: System }).system
}

/** The part of `count` that a system is given, never less than what its batches need. */
export function shareOf(system: System, count: number): number {
  return Math.max(Math.min(count, 50), Math.round(count * system.share))
}
