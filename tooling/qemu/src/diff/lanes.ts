/**
 * Jobs side by side, each on a thread of its own: one makes and judges cases while another does, and while QEMUs work.
 */
import { availableParallelism } from "node:os"
import { Worker } from "node:worker_threads"
import type { JobReport } from "./job.ts"
import type { PlannedJob } from "./plan.ts"

/** What a thread says of the job that it was given. */
export type JobMessage = { readonly kind: "case" } | { readonly kind: "done"; readonly report: JobReport }

/**
 * As many jobs at once as there are CPUs.
 * @param onCase called after each case of any job
 * @returns reports in the order of the jobs
 * @throws Error of the first job that cannot be run
 */
export async function runJobs(jobs: readonly PlannedJob[], onCase: () => void): Promise<JobReport[]> {
  const reports: JobReport[] = []
  const left = [...jobs.entries()]
  const workers = jobs.slice(0, availableParallelism()).map(() => startWorker())
  const work = async (worker: Worker): Promise<void> => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) {
      const [index, job] = next
      reports[index] = await runOn(worker, job, onCase)
    }
  }
  try {
    await Promise.all(workers.map(work))
  } finally {
    await Promise.all(workers.map(worker => worker.terminate()))
  }
  return reports
}

function startWorker(): Worker {
  return new Worker(new URL("./lane-worker.ts", import.meta.url))
}

function runOn(worker: Worker, job: PlannedJob, onCase: () => void): Promise<JobReport> {
  return new Promise((resolve, reject) => {
    worker.removeAllListeners()
    worker.once("error", reject)
    worker.on("message", (message: JobMessage) => {
      if (message.kind === "case") onCase()
      else resolve(message.report)
    })
    worker.postMessage(job)
  })
}
