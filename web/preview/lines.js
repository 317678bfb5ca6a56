// How far a run is, as lines of text.
import { duration, gigabytes, plannedSampling } from "../cost.js";

/** Names of evaluations, or parts of such, that there are texts for; others tell themselves. */
const BRANCHES = new Set(["positive", "negative", "source", "target", "inversion"]);
const REMARKS = {
  taehv_other_latents: "otherLatents",
  taehv_missing: "taehvMissing",
  taehv_unusable: "taehvUnusable",
};

/** The lines that tell of an event hyvideo.progress (docs/api.md). */
export function progressLines(progress, say) {
  const { state, error, steps, sampling, device, caches, preview, awaited, remarks } = progress;
  const told = [];
  if (state === "stopped") told.push(say("stopped"));
  if (state === "failed") told.push(say("runFailed", { error }));
  told.push(stepsLine(steps, state === "running", say), plannedSampling(sampling, device === "cpu", say));
  if (state === "finished") told.push(peakLine(progress, say));
  told.push(...caches.map((cache) => cacheLine(cache, say)));
  if (preview) told.push(say("preview", preview));
  if (awaited) told.push(say("awaited", { ...awaited, percent: percent(awaited.share) }));
  told.push(...remarks.map((remark) => (REMARKS[remark.code] ? say(REMARKS[remark.code], remark) : remark.text)));
  return told;
}

function percent(share) {
  return Math.round(share * 100);
}

function stepsLine({ done, total, made, last_s, first_s, each_s, left_s, total_s }, runs, say) {
  if (total_s !== null) {
    const times = { total: total_s.toFixed(2), first: first_s.toFixed(2), each: each_s.toFixed(2) };
    return say(made > 1 ? "steps" : "oneStep", { made, ...times });
  }
  if (last_s === null || !runs) return say("stepOf", { done, total });
  return say("step", { done, total, last: last_s.toFixed(2), left: duration(left_s, say) });
}

function peakLine({ measured_peak_bytes: peak, sampling }, say) {
  if (peak === null) return say("notMeasured");
  return say("measured", { peak: gigabytes(peak), planned: gigabytes(sampling.peak_bytes) });
}

function cacheLine({ name, branches, saved_share }, say) {
  const word = (each) => (BRANCHES.has(each) ? say(each) : each);
  const told = branches.map((branch) => {
    return say("skipped", { ...branch, branch: branch.name.split(" ").map(word).join(" ") });
  });
  return say("cache", { name, branches: told.join(say("comma")), percent: percent(saved_share) });
}
