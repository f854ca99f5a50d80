/** A thread of {@link runJobs}: jobs come as messages, one at a time, cases and reports go back. */
import { parentPort } from "node:worker_threads"
import { runJob } from "./job.ts"
import type { JobMessage } from "./lanes.ts"
import type { PlannedJob } from "./plan.ts"
import { withVendor } from "./vendors.ts"

const port = parentPort
if (port === null) throw new Error("this file is a worker thread")
const say = (message: JobMessage): void => port.postMessage(message)
port.on("message", async (job: PlannedJob) => {
  const report = await withVendor(job.vendor, vendor => runJob(vendor, job, () => say({ kind: "case" })))
  say({ kind: "done", report })
})
