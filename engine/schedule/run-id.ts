// The name of one occurrence of one schedule, `<schedule>:<unix seconds>`. It is made from the two facts that make the
// occurrence what it is, so every node finds the same name without asking, and a unique row on it decides who runs it.

/** The id of the occurrence of a schedule at a time (wall ms; occurrences are whole seconds, a fraction is cut off). */
export function generateRunId(scheduleId: string, scheduledAtMs: number): string {
  return `${scheduleId}:${Math.floor(scheduledAtMs / 1000)}`
}

/** Takes an id apart at its last colon, because a schedule's id may contain colons; null for what is no such id. */
export function parseRunId(runId: string): { scheduleId: string; scheduledAtMs: number } | null {
  const colon = runId.lastIndexOf(':')
  const seconds = runId.slice(colon + 1)
  if (colon < 1 || !/^(0|[1-9]\d{0,11})$/.test(seconds)) return null
  return { scheduleId: runId.slice(0, colon), scheduledAtMs: Number(seconds) * 1000 }
}
