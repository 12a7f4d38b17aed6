// The order within a queue, as one number: lower is earlier; equal ranks go by the sequence number that the database
// gave at insert.

/** One priority level is worth this much waiting in a queue that ages. */
export const AGEING_LEVEL_MS = 5 * 60_000

/** Without ageing: the priority alone. 100 is served before 0 before -100. */
export function rankByPriority(priority: number): number {
  return priority === 0 ? 0 : -priority
}

/**
 * With ageing: "five minutes older is one level higher" is linear, so it is an order that never needs re-sorting:
 * enqueued time minus level times five minutes.
 */
export function rankByAge(priority: number, enqueuedAtMs: number): number {
  return enqueuedAtMs - priority * AGEING_LEVEL_MS
}

/** Levels of the classes and labels that other systems name. */
export const QUEUE_CLASS_LEVEL = { live: 10, default: 5, batch: 1 } as const
export const PRIORITY_LABEL_LEVEL = { high: 3, medium: 2, low: 1 } as const
