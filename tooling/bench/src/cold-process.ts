/** A process of its own: builds the machine of the vendor named as argument, and times its first transactions. */
import { BENCH_VENDORS, NO_IOTLB, singleStage } from "./machines.ts"
import { transactions } from "./transactions.ts"

const FIRST = 1000
const PAGES = 256

const [, , name, caches] = process.argv
const vendor = BENCH_VENDORS.find(({ key }) => key === name)
if (vendor === undefined) throw new Error(`no vendor ${name}`)
const run = transactions(singleStage(vendor, caches === "no-iotlb" ? NO_IOTLB : "exact"), PAGES, FIRST)
// The clocks load lazily, too.
performance.now()
process.cpuUsage()
const cpu = process.cpuUsage()
const start = performance.now()
run()
const ms = performance.now() - start
const { user, system } = process.cpuUsage(cpu)
process.stdout.write(JSON.stringify({ ms, cpuMs: (user + system) / 1000 }))
