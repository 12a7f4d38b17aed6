// Lanes under a clock that a test moves. Threads go by the machine's clock, whatever a test does: what they report is
// said anew in the time of that clock before the scheduler hears of it.

import type { Clock } from '../engine/base/clock.ts'
import type { ReportSink } from './lanes.ts'
import type { ThreadPool } from './pool.ts'

type Machine = NonNullable<Clock['machine']>
type PoolLanes = Pick<
  ThreadPool,
  | 'count'
  | 'isOpen'
  | 'feed'
  | 'outstanding'
  | 'taken'
  | 'revoke'
  | 'abort'
  | 'kill'
  | 'drain'
  | 'hasReports'
  | 'armDoorbell'
>

/** The lanes themselves under the machine's own clock: it costs nothing there. */
export function lanesInTimeOf({ machine }: Clock, lanes: PoolLanes): PoolLanes {
  if (machine === undefined) return lanes
  const sinks = new WeakMap<ReportSink, ReportSink>()
  return {
    get count() {
      return lanes.count
    },
    isOpen: (lane) => lanes.isOpen(lane),
    feed: (lane, pieces) => lanes.feed(lane, pieces),
    outstanding: (lane) => lanes.outstanding(lane),
    taken: (lane) => lanes.taken(lane),
    revoke: (lane) => lanes.revoke(lane),
    abort: (lane, slot, generation, reason) => lanes.abort(lane, slot, generation, reason),
    kill: (lane, code, message) => lanes.kill(lane, code, message),
    hasReports: () => lanes.hasReports(),
    armDoorbell: () => lanes.armDoorbell(),
    drain(sink, limit) {
      let moved = sinks.get(sink)
      if (moved === undefined) {
        moved = movedSink(machine, sink)
        sinks.set(sink, moved)
      }
      return lanes.drain(moved, limit)
    },
  }
}

function movedSink(machine: Machine, sink: ReportSink): ReportSink {
  /** Of a run of the machine's `ranMs`: time may have been moved in between. */
  const lasted = (startedAtMs: number, ranMs: number) =>
    Math.max(ranMs, machine.at(startedAtMs + ranMs) - machine.at(startedAtMs))
  return {
    started: (lane, slot, generation, atMs) => sink.started(lane, slot, generation, machine.at(atMs)),
    completed: (lane, slot, generation, atMs, ranMs, bytes, start, end) =>
      sink.completed(lane, slot, generation, machine.at(atMs), lasted(atMs, ranMs), bytes, start, end),
    failed: (lane, slot, generation, atMs, ranMs, retryable, bytes, start, end, decidedMs) => {
      const ran = lasted(atMs, ranMs)
      sink.failed(lane, slot, generation, machine.at(atMs), ran, retryable, bytes, start, end, decidedMs)
    },
    completing: (lane, slot, generation) => sink.completing(lane, slot, generation),
    heartbeat: (lane, slot, generation, atMs) => sink.heartbeat(lane, slot, generation, machine.at(atMs)),
    progress: (lane, slot, generation, bytes, start, end) => sink.progress(lane, slot, generation, bytes, start, end),
    log: (lane, slot, generation, bytes, start, end) => sink.log(lane, slot, generation, bytes, start, end),
  }
}
