// The public API of the package.

export type {
  Client,
  Console,
  DeadFilter,
  DeadRow,
  DoctorRow,
  Engine,
  EngineStats,
  InboxStats,
  JobEvent,
  JobFilter,
  JobLife,
  JobRow,
  JobState,
  LoopInbox,
  LoopMessage,
  LoopRow,
  NodeRow,
  OccurrenceRow,
  Producer,
  QueueStats,
  Registry,
  RegistryOf,
  Requeued,
  RequeueFilter,
  RequeueOptions,
  RoleKind,
  ScheduleChange,
  ScheduleDefinition,
  ScheduleFilter,
  ScheduleJobOptions,
  ScheduleRow,
  Schedules,
  StopReport,
  TriggerOptions,
  UpcomingRow,
} from './api.ts'
export { EngineError, ERROR_CODES, type ErrorCode } from './base/errors.ts'
export type { ForeignClient } from './base/foreign-client.ts'
export { type Log, type LogMethod, silentLog, type TaskLog, type TaskLogMethod } from './base/log.ts'
export {
  defineTask,
  type Json,
  type RetryDecision,
  type RetryPolicy,
  type TaskContext,
  type TaskDefinition,
  type TaskOptions,
} from './base/task.ts'
export { type ClientOptions, createClient } from './client.ts'
export type { Settings } from './config/settings.ts'
export { createEngine, type EngineOptions } from './engine.ts'
export type { Enqueued, EnqueuedMany, EnqueueItem, EnqueueOptions } from './enqueuer/options.ts'
export type { MigrationReport } from './store/types.ts'
