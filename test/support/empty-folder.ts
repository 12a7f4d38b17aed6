// A folder as a stranger has it after the README's install: the package as it is published, beside others from the
// registry. Install scripts do not run, as in many companies.

import { execFile } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const REPOSITORY = fileURLToPath(new URL('../../..', import.meta.url)) // from dist/test/support/
const PACK_MS_MAX = 60_000
const INSTALL_MS_MAX = 150_000
/** What npm says when there is no way to a registry. */
const OFFLINE = /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH/

export const run = promisify(execFile)

/** Packs the repository into `folder`: the file, and the paths in it. */
export async function pack(folder: string): Promise<{ file: string; paths: string[] }> {
  const { stdout } = await run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], {
    cwd: REPOSITORY,
    timeout: PACK_MS_MAX,
  })
  const [packed] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }]
  return { file: join(folder, packed.filename), paths: packed.files.map(({ path }) => path) }
}

/** Runs the README's install in a new folder. False: no registry can be reached. */
export async function install(home: string, packages: readonly string[]): Promise<boolean> {
  mkdirSync(home, { recursive: true })
  await run('npm', ['init', '-y'], { cwd: home, timeout: PACK_MS_MAX })
  await run('npm', ['pkg', 'set', 'type=module'], { cwd: home, timeout: PACK_MS_MAX })
  const flags = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund']
  try {
    await run('npm', ['install', ...packages, ...flags], { cwd: home, timeout: INSTALL_MS_MAX })
    return true
  } catch (error) {
    if (OFFLINE.test(String((error as { stderr?: string }).stderr))) return false
    throw error
  }
}
