// Somebody else's connection, in the middle of somebody else's transaction.

/** What `pg` clients, pools and adapters have in common. */
export interface ForeignClient {
  query(text: string, values: unknown[]): Promise<{ rows: unknown[] }>
}
