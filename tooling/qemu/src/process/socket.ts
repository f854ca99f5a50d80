/** UNIX sockets on which we listen and QEMU connects: a machine that does not start never leaves a half-open client. */
import { createServer, type Server, type Socket } from "node:net"

export interface AwaitedSocket {
  /** Settles with the first connection; no second one is taken. */
  readonly connected: Promise<Socket>
  /** Stops waiting; a connection made stays. */
  close(): void
}

/** Listens at a path. @throws Error when the path cannot be listened on */
export async function listenOnce(path: string): Promise<AwaitedSocket> {
  const server = createServer()
  const connected = new Promise<Socket>(resolve => {
    server.once("connection", socket => {
      server.close()
      resolve(socket)
    })
  })
  await listening(server, path)
  return { connected, close: () => server.close() }
}

function listening(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject)
    server.listen(path, resolve)
  })
}

/**
 * The first connection, or a rejection when the other side ends before it makes one.
 * @param ended settles when the other side is gone
 * @param why says how it ended
 */
export async function connectionOf(
  socket: AwaitedSocket,
  ended: Promise<unknown>,
  why: () => string,
): Promise<Socket> {
  const gone = ended.then((): never => {
    throw new Error(why())
  })
  // After the race nobody else looks at it.
  gone.catch(() => undefined)
  try {
    return await Promise.race([socket.connected, gone])
  } finally {
    socket.close()
  }
}
