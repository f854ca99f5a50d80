/** Which way a QEMU reaches functions that live in this process, and the arguments that make it do so. */
import {
  connectionOf,
  FIRST_LINK,
  listenOnce,
  type QemuBinary,
  type QemuProcess,
  type WorkFolder,
} from "@iommu/qemu"
import type { PciFunction } from "../pci/function.ts"
import { serveProxy } from "./proxy-link.ts"
import { serveVfioUser } from "./vfio-user-link.ts"

/** A function and its slot on bus 0. */
export interface PlacedFunction {
  readonly fn: PciFunction
  readonly slot: number
}

/** Functions ready to be reached. */
interface Attachment {
  readonly args: readonly string[]
  /** Connected sockets that QEMU inherits. */
  readonly links: number
  onStart(process: QemuProcess): void
}

export type Complain = (what: string) => void

interface Transport {
  /** QEMU's device that speaks it. */
  readonly device: string
  attach(functions: readonly PlacedFunction[], folder: WorkFolder, complain: Complain): Promise<Attachment>
}

const VFIO_USER: Transport = { device: "vfio-user-pci", attach: listenForVfioUser }
const PROXY: Transport = { device: "x-pci-proxy-dev", attach: inheritSockets }

/** The documented protocol where there is a choice. @returns null when this QEMU offers none */
export function transportOf(binary: QemuBinary): Transport | null {
  return [VFIO_USER, PROXY].find(({ device }) => binary.devices.has(device)) ?? null
}

async function listenForVfioUser(
  functions: readonly PlacedFunction[],
  folder: WorkFolder,
  complain: Complain,
): Promise<Attachment> {
  const sockets = await Promise.all(
    functions.map(async ({ fn, slot }) => {
      const path = folder.file(fn.name)
      const socket = await listenOnce(path)
      return { fn, socket, device: deviceArgument(slot, path) }
    }),
  )
  return {
    args: sockets.flatMap(({ device }) => ["-device", device]),
    links: 0,
    onStart: started => {
      for (const { fn, socket } of sockets) {
        // A QEMU that ends before it connects says so elsewhere.
        void connectionOf(socket, started.ended, () => started.describe()).then(
          stream => serveVfioUser(stream, fn, complain),
          () => undefined,
        )
      }
    },
  }
}

function deviceArgument(slot: number, path: string): string {
  const addr = `${slot.toString(16)}.0`
  return JSON.stringify({ driver: VFIO_USER.device, addr, socket: { type: "unix", path } })
}

async function inheritSockets(
  functions: readonly PlacedFunction[],
  _folder: WorkFolder,
  complain: Complain,
): Promise<Attachment> {
  return {
    args: functions.flatMap(({ slot }, n) => [
      "-device",
      `${PROXY.device},fd=${FIRST_LINK + n},addr=${slot.toString(16)}.0`,
    ]),
    links: functions.length,
    onStart: started => {
      started.links.forEach((link, n) => {
        const placed = functions[n]
        if (placed !== undefined) serveProxy(link, placed.fn, complain)
      })
    },
  }
}
