// What bree runs in a thread: says when it started.

import { parentPort } from 'node:worker_threads'
import { monotonicUs } from '../peers/system.ts'

parentPort!.postMessage(monotonicUs())
