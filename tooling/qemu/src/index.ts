/**
 * QEMU as an outside authority: found, fetched, started and driven from Node, without guest, KVM or native module.
 * @packageDocumentation
 */
export { type Discovery, discoverQemu, QEMU_CACHE, qemuAt } from "./binary/discover.ts"
export { fetchQemu } from "./binary/fetch.ts"
export { deviceProperties } from "./binary/probe.ts"
export {
  describeBinary,
  isAtLeast,
  QEMU_TARGETS,
  type QemuBinary,
  type QemuTarget,
  versionOf,
} from "./binary/qemu-binary.ts"
export { ledgerDocument } from "./ledger/document.ts"
export type { Dispute, LedgerEntry } from "./ledger/entry.ts"
export { explainAccess, explainRecord, LEDGER } from "./ledger/explain.ts"
export { type DriverMachine, startDriverMachine } from "./machine/driver-machine.ts"
export type { Edu } from "./machine/edu.ts"
export { LAYOUTS, type MachineLayout, type RamPiece } from "./machine/layout.ts"
export { type QemuMachine, startMachine } from "./machine/qemu-machine.ts"
export { type Recipe, type RecipeBook, recipesOf, TARGET_OF, VENDORS, type Vendor } from "./machine/recipe.ts"
export type { TestAttributes, TestDevice, TestWrite } from "./machine/test-device.ts"
export {
  FIRST_LINK,
  type QemuEnd,
  QemuProcess,
  type QemuStartOptions,
  startQemu,
} from "./process/qemu-process.ts"
export { openQmp, Qmp, type QmpEvent } from "./process/qmp.ts"
export { Qtest } from "./process/qtest.ts"
export { type QemuSession, type SessionOptions, startSession } from "./process/session.ts"
export { type AwaitedSocket, connectionOf, listenOnce } from "./process/socket.ts"
export { makeWorkFolder, type WorkFolder } from "./process/work-folder.ts"
