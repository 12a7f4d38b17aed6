// Every fixed bound, with its reason. What a user may want to change is a setting (engine/config); what stands here
// is part of a format or protects the engine from itself.

/** Jobs in one chunk: the unit of enqueue and claim, and the size of an id block. 1,000 was the measured optimum. */
export const CHUNK_JOBS_MAX = 1_000

/** Ids per partition of `job` and `attempt`; must equal the value in migrations/0001. */
export const PARTITION_JOBS = 10_000_000

/** Ids stay exact as JavaScript numbers. */
export const JOB_ID_MAX = Number.MAX_SAFE_INTEGER

/** Characters of a task, queue, group or idempotency key: fits an index entry with room to spare. */
export const NAME_CHARS_MAX = 255

/** Nesting of a payload or result: far above real data, far below what overflows a recursive parser. */
export const JSON_DEPTH_MAX = 100

/** Bytes of a payload or a result as JSON text, unless a setting allows less or more. */
export const PAYLOAD_BYTES_DEFAULT = 2 * 1024 * 1024
export const RESULT_BYTES_DEFAULT = 2 * 1024 * 1024

/** Bytes of `meta` as JSON text: trace headers and a few labels. */
export const META_BYTES_MAX = 16 * 1024

/** Jobs of one enqueueMany call: bounds the memory of one transaction. */
export const BATCH_JOBS_MAX = 1_000_000

export const PRIORITY_MIN = -100
export const PRIORITY_MAX = 100

/** smallint in the tables; a job that needs more runs is a schedule. */
export const MAX_ATTEMPTS_MAX = 10_000

/** Where neither the enqueue nor the task says. */
export const MAX_ATTEMPTS_DEFAULT = 3

/** Jobs of one group that may be held at a time; equal in migrations/0001. Each is a row that claims of the group count. */
export const GROUP_LIMIT_MAX = 1_000

/** A job is a dead letter (POISON) when this many holders died with it. */
export const RESCUES_MAX = 3

/** An expiry that is nearer is told to nodes when it is written; those further ahead are found by their beats. */
export const EXPIRY_HINT_MS = 60_000
/** Expiries are told in such steps, rounded up: bounds how many hints a flood of them sends. */
export const EXPIRY_STEP_MS = 250

/** Separates payload texts that travel as one string. JSON text cannot contain it unescaped (RFC 8259, section 7). */
export const PAYLOAD_SEPARATOR = '\u001e'

/** Longest delay between two attempts, and longest time until a job is due: ten years. */
export const DELAY_MS_MAX = 10 * 365 * 24 * 3_600_000
