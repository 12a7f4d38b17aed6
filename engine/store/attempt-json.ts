// The tuples of a small flush as JSON: one function call then does what COPY needs three round trips for. Reads the
// binary layout that engine/syncer/attempt-rows.ts writes.

import { EPOCH_MS, TWO_32 } from './copy.ts'
import type { Flush } from './types.ts'

/** [{l lease, j job, r run, a attempt, o outcome, i node, n lane, s started us, f finished us, e [error], v [result]}] */
export function attemptsJson(flush: Flush): string {
  const rows: string[] = []
  for (let at = 0; at < flush.rowCount; at++) {
    const from = at === 0 ? 0 : flush.rowEnds[at - 1]!
    rows.push(attemptJson(flush.rows.subarray(from, flush.rowEnds[at]!), flush.rowLeases[at]!))
  }
  return `[${rows.join(',')}]`
}

/** The job that the tuple at `start` is about. */
export function jobIdAt(tuples: Buffer, start: number): number {
  return int8(tuples.subarray(start + 6, start + 14))
}

function attemptJson(tuple: Buffer, lease: number): string {
  let at = 2 // the field count
  const field = (): Buffer | null => {
    const bytes = tuple.readInt32BE(at)
    at += 4
    if (bytes < 0) return null
    at += bytes
    return tuple.subarray(at - bytes, at)
  }
  const [job, run, attempt, outcome, node, lane, started, finished, error, result] = Array.from({ length: 10 }, field)
  return (
    `{"l":${lease},"j":${int8(job!)},"r":${run!.readInt16BE()},"a":${attempt!.readInt16BE()},"o":"${outcome!.toString('latin1')}",` +
    `"i":${node!.readInt32BE()},"n":${lane!.readInt16BE()},"s":${started ? seconds(started) : null},"f":${seconds(finished!)},` +
    `"e":${boxed(error)},"v":${boxed(result)}}`
  )
}

/** In an array, because a bare JSON null would become an SQL null on its way through a record. */
function boxed(json: Buffer | null | undefined): string {
  return json ? `[${json.toString('utf8')}]` : 'null'
}

function int8(bytes: Buffer): number {
  return bytes.readInt32BE() * TWO_32 + bytes.readUInt32BE(4)
}

/** Seconds since 1970 for to_timestamp. */
function seconds(bytes: Buffer): number {
  return (int8(bytes) / 1_000 + EPOCH_MS) / 1_000
}
