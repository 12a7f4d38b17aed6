// The task of `millrace demo`: fingerprints one file. It reads, hashes, compresses and counts synchronously, the kind
// of work that would block an event loop; on a thread of its own it blocks nobody.

import { createHash } from 'node:crypto'
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import { defineTask } from '../../base/task.ts'

/** Larger files are fingerprinted up to here: bounds the memory of a thread. */
const READ_BYTES_MAX = 32 * 1024 * 1024

export interface FingerprintPayload {
  readonly path: string
}

export interface Fingerprint {
  readonly path: string
  readonly bytes: number
  readonly sha256: string
  readonly gzipBytes: number
  readonly lines: number
  /** Present when only the first part of a large file was read. */
  readonly truncatedAt?: number
}

export const fingerprint = defineTask({
  name: 'fingerprint',
  timeoutMs: 60_000,
  maxAttempts: 3,
  retry: { kind: 'fixed', delayMs: 500 },
  run({ path }: FingerprintPayload): Fingerprint {
    const { bytes, content } = read(path)
    const result = {
      path,
      bytes,
      sha256: createHash('sha256').update(content).digest('hex'),
      gzipBytes: gzipSync(content).length,
      lines: linesOf(content),
    }
    return content.length < bytes ? { ...result, truncatedAt: content.length } : result
  },
})

function read(path: string): { bytes: number; content: Buffer } {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch (error) {
    const code = (error as { code?: unknown }).code
    const why = code === 'ENOENT' ? 'the file is gone since the folder was listed' : `cannot be read (${String(code)})`
    throw new Error(`${path}: ${why}`, { cause: error })
  }
  try {
    const bytes = fstatSync(file).size
    const content = Buffer.allocUnsafe(Math.min(bytes, READ_BYTES_MAX))
    let filled = 0
    while (filled < content.length) {
      const got = readSync(file, content, filled, content.length - filled, null)
      if (got === 0) break // shrank meanwhile
      filled += got
    }
    return { bytes, content: content.subarray(0, filled) }
  } finally {
    closeSync(file)
  }
}

function linesOf(content: Buffer): number {
  let lines = 0
  for (let at = content.indexOf(10); at !== -1; at = content.indexOf(10, at + 1)) lines++
  return content.length > 0 && content[content.length - 1] !== 10 ? lines + 1 : lines
}
