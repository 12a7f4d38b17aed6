// Small disks, so that they can be full: a tmpfs each, mounted by root. Elsewhere there are none, and whoever asks says so.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface SmallDisk {
  readonly folder: string
  remove(): void
}

const COMMAND_MS_MAX = 10_000

/** Null where this process may not mount anything. */
export function openSmallDisk(mebibytes: number): SmallDisk | null {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-disk-'))
  const run = (command: string, ...args: string[]) =>
    execFileSync(command, args, { stdio: 'ignore', timeout: COMMAND_MS_MAX })
  try {
    run('mount', '-t', 'tmpfs', '-o', `size=${mebibytes}m,mode=0777`, 'millrace-faults', folder)
  } catch {
    rmSync(folder, { recursive: true, force: true })
    return null
  }
  return {
    folder,
    remove() {
      run('umount', '--lazy', folder)
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
