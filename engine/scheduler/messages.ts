// What the scheduler's inbox carries: messages from senders on the main thread. `id` is a job id (number) or a run id
// (`<schedule>:<unix seconds>`). Answers go to a callback, called after the iteration, so that a sender can neither
// delay nor break the loop.

import type { State } from '../orchestrator/states.ts'
import type { SchedulerStats } from './stats.ts'

export type OrchestratorId = number | string

/** A copy; changing it changes nothing. */
export interface OrchestratorState {
  readonly id: OrchestratorId
  readonly state: State
  /** Task of a job, schedule of a run. */
  readonly name: string
  readonly scheduledAtMs: number
  readonly startedAtMs: number | null
  readonly completedAtMs: number | null
  /** Of a running job: when it is told to end, or, told already, is ended. Null: nothing limits it. */
  readonly deadlineAtMs: number | null
  /** Milliseconds since the last sign of life. */
  readonly silentMs: number
  readonly missedHeartbeats: number
  readonly lane: number | null
  readonly config: unknown
  readonly error: string | null
}

export type Message =
  | {
      readonly type: 'orchestrator_state_change'
      readonly id: OrchestratorId
      readonly status: State
      readonly atMs: number
    }
  | {
      readonly type: 'orchestrator_complete'
      readonly id: OrchestratorId
      readonly success: boolean
      readonly atMs: number
      readonly error: string | null
    }
  | { readonly type: 'orchestrator_failed'; readonly id: OrchestratorId; readonly atMs: number; readonly error: string }
  | { readonly type: 'orchestrator_heartbeat'; readonly id: OrchestratorId; readonly atMs: number }
  | { readonly type: 'cancel_run'; readonly id: OrchestratorId; readonly reason: string }
  | { readonly type: 'update_run_config'; readonly id: OrchestratorId; readonly config: unknown }
  | {
      readonly type: 'get_orchestrator_state'
      readonly id: OrchestratorId
      readonly reply: (state: OrchestratorState | null) => void
    }
  | { readonly type: 'get_all_active_runs'; readonly reply: (states: OrchestratorState[]) => void }
  | { readonly type: 'get_stats'; readonly reply: (stats: SchedulerStats) => void }
  | { readonly type: 'shutdown' }
