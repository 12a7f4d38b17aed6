// Every statement that changes something is done by the server, and its answer is lost: nothing is lost, doubled or stuck.
// The table is faults/cuts.ts; faults-requests.test.ts loses the requests.

import { playCuts } from './faults/play.ts'

playCuts('before the answer')
