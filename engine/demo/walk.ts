// Lists the files of a folder for the demo: regular files only, links are not followed, bounded.

import { lstat, readdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { EngineError } from '../base/errors.ts'

/** Enough for a large node_modules; bounds memory and the length of the show. */
const FILES_MAX = 50_000

export interface Found {
  readonly paths: readonly string[]
  readonly bytes: number
  /** True when the folder holds more files than were taken. */
  readonly more: boolean
}

/** @throws EngineError VALIDATION when the folder cannot be read or holds no file. */
export async function walk(folder: string, filesMax = FILES_MAX): Promise<Found> {
  const root = resolve(folder)
  const paths: string[] = []
  const folders = [root]
  let more = false
  walking: for (let next = folders.pop(); next !== undefined; next = folders.pop()) {
    for (const entry of await list(next, next === root)) {
      const path = join(next, entry.name)
      if (entry.isDirectory()) folders.push(path)
      else if (entry.isFile()) {
        if (paths.length === filesMax) {
          more = true
          break walking
        }
        paths.push(path)
      }
    }
  }
  if (paths.length === 0)
    throw new EngineError('VALIDATION', `there is no file in ${root}`, { field: 'FOLDER', value: root })
  return { paths, bytes: await sizeOf(paths), more }
}

async function list(folder: string, isRoot: boolean) {
  try {
    return await readdir(folder, { withFileTypes: true })
  } catch (error) {
    if (!isRoot) return [] // unreadable or gone meanwhile: a demo shows what it can
    const why = (error as { code?: unknown }).code === 'ENOENT' ? 'does not exist' : 'cannot be read'
    throw new EngineError('VALIDATION', `the folder ${folder} ${why}`, { field: 'FOLDER', value: folder }, error)
  }
}

const AT_ONCE = 64

async function sizeOf(paths: readonly string[]): Promise<number> {
  let bytes = 0
  for (let i = 0; i < paths.length; i += AT_ONCE) {
    const sizes = paths.slice(i, i + AT_ONCE).map((path) =>
      lstat(path).then(
        ({ size }) => size,
        () => 0,
      ),
    )
    for (const size of await Promise.all(sizes)) bytes += size
  }
  return bytes
}
