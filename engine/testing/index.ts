// What users test with: `import { createTestKit } from 'millrace/testing'`.

export { createTestKit, type DrainOptions, TestKit, type TestKitOptions } from './kit.ts'
export type { JobMatch } from './match.ts'
export type { VirtualClock } from './virtual-clock.ts'
export { type WaitOptions, waitForJob } from './wait.ts'
