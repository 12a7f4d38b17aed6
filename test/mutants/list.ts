// The mutations of `npm run mutants`: one line broken each, and the test that must turn red. A promise whose line can be
// broken with every test green is no promise. Each is named after the mistake, not after the line.

import { ENGINE_MUTANTS } from './engine.ts'
import { LEASE_MUTANTS } from './leases.ts'
import { MENDS_MUTANTS } from './mends.ts'
import type { Mutant } from './mutant.ts'
import { NODE_MUTANTS } from './node.ts'
import { SCHEDULES_MUTANTS } from './schedules.ts'
import { STORE_MUTANTS } from './store.ts'

export const MUTANTS: readonly Mutant[] = [
  ...NODE_MUTANTS,
  ...LEASE_MUTANTS,
  ...STORE_MUTANTS,
  ...ENGINE_MUTANTS,
  ...SCHEDULES_MUTANTS,
  ...MENDS_MUTANTS,
]
