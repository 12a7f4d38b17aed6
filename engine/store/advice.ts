// Why PostgreSQL does not let somebody in, or not do something, and what to do about it: a row per reason, found by
// SQLSTATE or by the code of a system error, never by text. PostgreSQL's own message stands beside it and names the
// particulars.

import type { ErrorCode } from '../base/errors.ts'

export interface Advice {
  /** SQLSTATEs of PostgreSQL (five characters), codes of Node's system errors. */
  readonly states: readonly string[]
  /** STORE_REFUSED: waiting cannot help, somebody has to change something. STORE_UNREACHABLE: it may come. */
  readonly code: Extract<ErrorCode, 'STORE_REFUSED' | 'STORE_UNREACHABLE'>
  readonly hint: string
}

export const ADVICE: readonly Advice[] = [
  {
    states: ['28P01'],
    code: 'STORE_REFUSED',
    hint: 'The password is wrong, or the role does not exist. In a URL the special characters of a password are percent-encoded: @ is %40, / is %2F, # is %23, ? is %3F, % is %25.',
  },
  {
    states: ['28000'],
    code: 'STORE_REFUSED',
    hint: 'The role does not exist or may not log in, or no line of pg_hba.conf lets it in from here to this database. Where those lines demand TLS, add ?sslmode=verify-full to the URL (no-verify for a certificate that nobody has signed).',
  },
  {
    states: ['3D000'],
    code: 'STORE_REFUSED',
    hint: 'Create the database (`createdb NAME`), or correct its name, which is the last part of the URL.',
  },
  {
    states: ['42501'],
    code: 'STORE_REFUSED',
    hint: 'The role lacks the right that the message names. Connect as the owner of the schema, or let the owner grant it; only the owner migrates.',
  },
  {
    states: [
      'SELF_SIGNED_CERT_IN_CHAIN',
      'DEPTH_ZERO_SELF_SIGNED_CERT',
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      'UNABLE_TO_GET_ISSUER_CERT',
      'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
      'CERT_HAS_EXPIRED',
      'ERR_TLS_CERT_ALTNAME_INVALID',
    ],
    code: 'STORE_REFUSED',
    hint: "The server's certificate is not trusted. Name its authority with sslrootcert=FILE in the URL, or encrypt without checking with sslmode=no-verify.",
  },
  {
    states: ['ECONNREFUSED', 'ENOENT'],
    code: 'STORE_UNREACHABLE',
    hint: 'Nothing listens there. Start PostgreSQL, or correct host and port of the URL.',
  },
  {
    states: ['ENOTFOUND', 'EAI_AGAIN'],
    code: 'STORE_UNREACHABLE',
    hint: 'The name of the host cannot be resolved. Correct the URL; in its password @ is written %40, / is %2F, # is %23.',
  },
  {
    states: ['EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT'],
    code: 'STORE_UNREACHABLE',
    hint: 'No answer from that host. Check the address, the network and its firewalls.',
  },
  {
    states: ['53300'],
    code: 'STORE_UNREACHABLE',
    hint: 'All connections are taken. Close some, raise max_connections (or the limit of the role or database), or put a pooler between.',
  },
  {
    states: ['57P03'],
    code: 'STORE_UNREACHABLE',
    hint: 'PostgreSQL starts, stops or recovers. It takes connections when that is over; its log says how far it is.',
  },
]

/** What the driver says itself while it connects, without a code. */
export const INCOMPLETE_URL =
  'The URL lacks something, or asks for too much: a password where the server wants one, sslmode=disable where it has no TLS.'

const BY_STATE = new Map(ADVICE.flatMap((advice) => advice.states.map((state) => [state, advice] as const)))

export function adviceFor(state: string | undefined): Advice | undefined {
  return state === undefined ? undefined : BY_STATE.get(state)
}
