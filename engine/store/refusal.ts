// Whose fault it is when PostgreSQL does not take what we write, of what it says or of the server and the way to it, and
// whether it may have been written all the same.

import { EngineError } from '../base/errors.ts'

/** The SQLSTATE classes in which PostgreSQL blames what a statement says: data, constraints, limits of a value. */
const BLAMES_DATA = /^(21|22|23|44|54)/

/** The SQLSTATE that an error of the store carries, or null. */
export function sqlStateOf(error: unknown): string | null {
  if (!(error instanceof EngineError)) return null
  const { sqlState } = error.details
  return typeof sqlState === 'string' ? sqlState : null
}

/** A SQLSTATE, and not the code of a system error. */
const SQL_STATE = /^[0-9A-Z]{5}$/
/** States in which the connection ends: what was under way may have been committed before. */
const ENDS_SESSION = /^(08|57P)/

/**
 * False when the statement certainly changed nothing: it was never sent, or PostgreSQL answered that it is refused. After
 * anything else (a lost connection, no answer in time) nobody knows.
 */
export function mayHaveWritten(error: unknown): boolean {
  if (!(error instanceof EngineError) || error.details.sent === false) return false
  const sqlState = sqlStateOf(error)
  return sqlState === null || !SQL_STATE.test(sqlState) || ENDS_SESSION.test(sqlState)
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
