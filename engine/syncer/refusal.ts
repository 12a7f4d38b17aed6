// Whose fault it is when PostgreSQL does not take a flush: of what the flush says, or of the server and the way to it.

import { EngineError } from '../base/errors.ts'

/** The SQLSTATE classes in which PostgreSQL blames what a statement says: data, constraints, limits of a value. */
const BLAMES_DATA = /^(21|22|23|44|54)/

/** The SQLSTATE that an error of the store carries, or null. */
export function sqlStateOf(error: unknown): string | null {
  if (!(error instanceof EngineError)) return null
  const { sqlState } = error.details
  return typeof sqlState === 'string' ? sqlState : null
}

/** True when the same may be taken later: the way to the server, a deadlock, a shutdown. */
function isPassing(error: unknown): boolean {
  return error instanceof EngineError && (error.retry || error.details.retryable === true)
}

/** True when PostgreSQL said that the data is at fault: sending it again cannot help. */
export function blamesData(error: unknown): boolean {
  const sqlState = sqlStateOf(error)
  return !isPassing(error) && sqlState !== null && BLAMES_DATA.test(sqlState)
}

/** True when sending the same again cannot help, or when nobody knows what happened. */
export function isFinal(error: unknown): boolean {
  return !isPassing(error) && (sqlStateOf(error) === null || blamesData(error))
}
