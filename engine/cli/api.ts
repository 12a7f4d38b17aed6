// What the commands need of the engine: its public interface. main.ts hands over the real one, tests a small one.

import type { Client, Engine } from '../api.ts'
import type { Log } from '../base/log.ts'
import type { Settings } from '../config/settings.ts'

export type {
  Client,
  Console,
  DeadFilter,
  DoctorRow,
  Engine,
  EngineStats,
  JobFilter,
  JobRow,
  LoopRow,
  NodeRow,
  QueueStats,
  Requeued,
  RequeueFilter,
  RequeueOptions,
  ResultFilter,
  RoleKind,
  ScheduleChange,
  ScheduleDefinition,
  ScheduleFilter,
  ScheduleRow,
  TriggerOptions,
  UnservedTask,
} from '../api.ts'
export type { EnqueueOptions } from '../enqueuer/options.ts'

export type Options = Settings & { readonly log: Log }

export interface Api {
  createEngine(options: Options): Engine
  createClient(options: Omit<Options, 'tasks'>): Client
}
