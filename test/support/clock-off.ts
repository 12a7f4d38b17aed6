// Imported before everything else, also by worker threads: the wall clock of this process is CLOCK_OFF_MS off, as if that
// of its host were.

const offMs = Number(process.env.CLOCK_OFF_MS)
const now = Date.now
Date.now = () => now() + offMs

export {}
