// What the command line's exit codes mean, as one table: help shows it, the README is printed from it, and a test compares
// it with the table of errors. The numbers from 64 on are those of sysexits.h.

export interface ExitCode {
  readonly code: number
  readonly meaning: string
}

export const EXIT_CODES: readonly ExitCode[] = [
  { code: 0, meaning: 'done, or stopped as asked' },
  {
    code: 1,
    meaning: '`doctor` found something bad; or a second signal, or the deadline, ended `start` before its jobs',
  },
  { code: 64, meaning: 'wrong use: an unknown command or flag, or a value that is not allowed' },
  { code: 65, meaning: 'wrong data: the payload is no JSON, the key is taken, or the job is in another state' },
  { code: 66, meaning: 'not found: no such job, schedule or file, or no task where `tasks` points to' },
  { code: 69, meaning: 'no database: PostgreSQL cannot be reached, or the embedded one cannot start' },
  { code: 70, meaning: 'an unexpected failure; or the engine stopped itself: start it again' },
  { code: 74, meaning: 'the outbox could not be written to the disk' },
  { code: 78, meaning: 'wrong settings, or a schema that is missing or of another version' },
]
