// A way to the server that a test cuts, freezes and opens again.

import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface Gate {
  readonly url: string
  /** Connections end, and new ones are refused. */
  cut(): void
  /** Connections stay, and new ones are accepted, but nothing comes through any more. */
  freeze(): void
  open(): void
  close(): void
}

export async function gate(url: string): Promise<Gate> {
  const to = new URL(url)
  const folder = to.searchParams.get('host')
  const port = Number(to.port || to.searchParams.get('port') || 5432)
  let state: 'open' | 'frozen' | 'cut' = 'open'
  const sockets = new Set<Socket>()
  const known = (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  }
  const server = createServer((near) => {
    if (state === 'cut') return void near.destroy()
    known(near)
    if (state === 'frozen') return
    const far = folder?.startsWith('/') ? connect(`${folder}/.s.PGSQL.${port}`) : connect(port, to.hostname)
    known(far)
    for (const socket of [near, far]) socket.on('close', () => [near, far].forEach((it) => void it.destroy()))
    near.pipe(far).pipe(near)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const through = new URL(url)
  through.searchParams.delete('host')
  through.searchParams.delete('port')
  through.hostname = '127.0.0.1'
  through.port = String((server.address() as AddressInfo).port)
  const cut = () => {
    state = 'cut'
    for (const socket of sockets) socket.destroy()
  }
  return {
    url: through.href,
    cut,
    freeze() {
      state = 'frozen'
      for (const socket of sockets) socket.unpipe().pause()
    },
    open() {
      state = 'open'
    },
    close() {
      cut()
      server.close()
    },
  }
}
