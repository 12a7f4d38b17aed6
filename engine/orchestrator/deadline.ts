// When an attempt must have ended, and how many heartbeats are missing. Pure.

/** No deadline. */
export const NEVER = Number.POSITIVE_INFINITY

/**
 * Milliseconds that an attempt may run: the smaller of its timeout (0 = none) and what is left until the job expires.
 * @param expiresAtMs wall time, null when the job does not expire
 */
export function allowedMs(timeoutMs: number, expiresAtMs: number | null, startedAtMs: number): number {
  const byTimeout = timeoutMs > 0 ? timeoutMs : NEVER
  const byExpiry = expiresAtMs === null ? NEVER : Math.max(0, expiresAtMs - startedAtMs)
  return Math.min(byTimeout, byExpiry)
}

/**
 * Whole intervals since the last beat. Never less than what was already counted, and at most `missedMax`: beyond it
 * the verdict is the same.
 */
export function missedBeats(sinceMs: number, intervalMs: number, already: number, missedMax: number): number {
  const whole = sinceMs > 0 ? Math.floor(sinceMs / intervalMs) : 0
  return Math.min(missedMax, Math.max(already, whole))
}

/** How long a job may take when only its kind and the length of its material are known. */
export type TimeoutProfile =
  | { readonly kind: 'factor'; readonly factor: number }
  | { readonly kind: 'extra'; readonly extraMs: number }
  | { readonly kind: 'plain' }

/** Built in; more come from the configuration. */
export const TIMEOUT_PROFILES: Readonly<Record<string, TimeoutProfile>> = {
  ffmpeg: { kind: 'factor', factor: 2 },
  auto: { kind: 'factor', factor: 2 },
  gstreamer: { kind: 'extra', extraMs: 30_000 },
}

/** No declared duration. */
const PROFILE_DEFAULT_MS = 30 * 60_000

/** Assigned to a holder that never started it. */
const NEVER_STARTED_MS = 5 * 60_000

/** The timeout of a job of a profile whose material lasts `durationMs` (null: not declared). */
export function profileTimeoutMs(
  profile: TimeoutProfile | undefined,
  durationMs: number | null,
  hasStarted = true,
): number {
  if (!hasStarted) return NEVER_STARTED_MS
  if (durationMs === null) return PROFILE_DEFAULT_MS
  if (profile?.kind === 'factor') return durationMs * profile.factor
  if (profile?.kind === 'extra') return durationMs + profile.extraMs
  return durationMs
}
