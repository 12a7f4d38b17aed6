// The settings file: finds it and reads it. A module is imported, so it may compute its settings; JSON is parsed.

import { existsSync, readFileSync } from 'node:fs'
import { extname, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { EngineError, messageOf } from '../base/errors.ts'
import type { ConfigFile } from './load.ts'

const FILE_NAMES = ['millrace.config.js', 'millrace.config.mjs', 'millrace.config.json']

/**
 * The file that `named` points to, or the first of millrace.config.js, .mjs, .json in `folder`, or null.
 * @throws EngineError CONFIG_INVALID when the named file is missing, or the file cannot be read.
 */
export async function readConfigFile(folder: string, named?: string): Promise<ConfigFile | null> {
  const path =
    named === undefined
      ? FILE_NAMES.map((name) => join(folder, name)).find((name) => existsSync(name))
      : resolve(folder, named)
  if (path === undefined) return null
  if (!existsSync(path)) throw refused(path, 'does not exist')
  const values = extname(path) === '.json' ? readJson(path) : await readModule(path)
  if (typeof values !== 'object' || values === null || Array.isArray(values)) {
    throw refused(path, extname(path) === '.json' ? 'must hold an object' : 'must export an object as default')
  }
  return { path, values: values as Record<string, unknown> }
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    throw refused(path, `cannot be read: ${messageOf(error)}`, error)
  }
}

async function readModule(path: string): Promise<unknown> {
  try {
    return ((await import(pathToFileURL(path).href)) as { default?: unknown }).default
  } catch (error) {
    throw refused(path, `cannot be imported: ${messageOf(error)}`, error)
  }
}

function refused(path: string, why: string, cause?: unknown): EngineError {
  return new EngineError(
    'CONFIG_INVALID',
    `the settings file ${path} ${why}`,
    { setting: 'config', value: path, rule: why },
    cause,
  )
}
