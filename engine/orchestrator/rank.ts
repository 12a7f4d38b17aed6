// The order within a queue, as one number: lower is earlier; equal ranks go by the sequence number that the database
// gave at insert.

/** One priority level is worth this much waiting in a queue that ages. */
const AGEING_LEVEL_MS = 5 * 60_000

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

/** Weights of the classes and labels that other systems name. */
const QUEUE_CLASS_WEIGHT = { live: 10, default: 5, batch: 1 } as const
const LABEL_WEIGHT = { high: 3, medium: 2, low: 1 } as const

/** The priority that a class of queue and a label stand for: the class counts ten times as much. */
export function priorityOf(queueClass: keyof typeof QUEUE_CLASS_WEIGHT, label: keyof typeof LABEL_WEIGHT): number {
  return 10 * QUEUE_CLASS_WEIGHT[queueClass] + LABEL_WEIGHT[label]
}
