// What a figure depends on and is therefore written beside it: the machine, the commit, the versions of everything that
// took part. Reads only; nothing here is measured.

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { cpus, release, totalmem } from 'node:os'
import { dirname, join } from 'node:path'

export interface Machine {
  cpu: string
  cores: number
  memoryGiB: number
  kernel: string
}

export function machine(): Machine {
  const all = cpus()
  return {
    cpu: all[0]?.model.trim() ?? 'unknown',
    cores: all.length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: `${process.platform} ${release()}`,
  }
}

/** The commit, with `+` behind it when the tree differs from it; `unknown` outside a checkout. */
export function commit(): string {
  const git = (...args: string[]) =>
    execFileSync('git', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'], timeout: 10_000 }).trim()
  try {
    const changed = git('status', '--porcelain', '--untracked-files=no', '--', 'engine', 'threads', 'bench')
    return git('rev-parse', '--short=12', 'HEAD') + (changed === '' ? '' : '+')
  } catch {
    return 'unknown'
  }
}

/** Installed versions. Packages that hide their package.json are found beside their entry file. */
export function versions(packages: readonly string[]): Record<string, string> {
  const found: Record<string, string> = { node: process.versions.node }
  for (const name of packages) found[name] = version(name)
  return found
}

function version(name: string): string {
  const require = createRequire(import.meta.url)
  for (const folder of require.resolve.paths(name) ?? []) {
    try {
      return String(JSON.parse(readFileSync(join(folder, name, 'package.json'), 'utf8')).version)
    } catch {
      // not in this folder
    }
  }
  return 'unknown'
}

/** The folder of the package that holds this build: where `results/` stands. */
export function packageRoot(): string {
  let folder = import.meta.dirname
  while (folder !== dirname(folder)) {
    try {
      if (JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).name === 'millrace') return folder
    } catch {
      // keep climbing
    }
    folder = dirname(folder)
  }
  throw new Error('bench: no package.json of millrace above this file')
}
