// A plan of the server's as lines of text: what a job will cost, and how what runs is sampled.

const GB = 1e9;

export function gigabytes(bytes) {
  const size = bytes / GB;
  return size.toFixed(size < 9.95 ? 2 : 1);
}

export function duration(seconds, say) {
  const short = (n) => String(Number(n.toPrecision(2)));
  if (seconds < 100) return say("s", { n: short(seconds) });
  if (seconds < 100 * 60) return say("min", { n: short(seconds / 60) });
  return say("h", { n: short(seconds / 3600) });
}

/** The lines that tell of a plan (the answer of /hyvideo/plan). */
export function costLines(plan, say) {
  const lines = [samplingLine(plan, say), decodingLine(plan, say)];
  if (!plan.fits && !plan.instead.length) lines.push(say(isOnCpu(plan) ? "nothingFitsCpu" : "nothingFits"));
  if (plan.sampling.fits) lines.push(timeLine(plan, say));
  return lines;
}

/** Whether a plan is for the CPU, with no card that the question gave. */
function isOnCpu({ memory }) {
  return memory.device === "cpu" && !memory.is_given;
}

function samplingLine(plan, say) {
  const { sampling } = plan;
  if (!sampling.fits) {
    return say("samplingTooBig", { needed: gigabytes(sampling.needed_bytes), ...roomOf(sampling, say) });
  }
  return plannedSampling(sampling, isOnCpu(plan), say);
}

/** On a CPU mapped weights give way, so that what is free now says little. */
function roomOf({ limit_bytes, is_all_memory }, say) {
  return { free: gigabytes(limit_bytes), where: say(is_all_memory ? "allMemory" : "free") };
}

/** The line that tells of a plan of sampling that fits (`sampling` of /hyvideo/plan and of a run's progress). */
export function plannedSampling(sampling, isCpu, say) {
  const told = [
    say("sampling", { peak: gigabytes(sampling.peak_bytes), ...roomOf(sampling, say) }),
    blocks(sampling, isCpu, say),
  ];
  if (sampling.head_groups > 1) told.push(say("groups", { groups: sampling.head_groups }));
  if (sampling.lora_bytes) told.push(say("loras", { size: gigabytes(sampling.lora_bytes) }));
  if (sampling.feature_bytes) told.push(say("features", { size: gigabytes(sampling.feature_bytes) }));
  return told.join(" · ");
}

function blocks({ blocks, resident_blocks, streamed_bytes, streaming_shows }, isCpu, say) {
  if (isCpu) return say("allBlocksCpu");
  if (resident_blocks === blocks) return say("allBlocks", { blocks });
  const waiting = blocks - resident_blocks;
  const streamed = say("streamed", { waiting, blocks, streamed: gigabytes(streamed_bytes) });
  return `${streamed} · ${say(streaming_shows ? "shows" : "hidden")}`;
}

function decodingLine({ decoding }, say) {
  if (!decoding) return say("otherDecoder");
  if (decoding.fits === null) {
    const error = decoding.missing ? say("missing", decoding.missing) : decoding.text;
    return say("decodingUnknown", { error });
  }
  const room = { free: gigabytes(decoding.limit_bytes), where: say("free") };
  if (!decoding.fits) return say("decodingTooBig", { needed: gigabytes(decoding.needed_bytes), ...room });
  const tiles = decoding.tile_size_px
    ? say("tiles", { px: decoding.tile_size_px, frames: decoding.tile_frames })
    : say("whole");
  return say("decoding", { peak: gigabytes(decoding.peak_bytes), ...room, tiles });
}

function timeLine({ time }, say) {
  if (!time) return say("timeUnknown");
  const total = time.steps ? say("total", { time: duration(time.total_s, say), steps: time.steps }) : "";
  const [step, firstStep] = [duration(time.step_s, say), duration(time.first_step_s, say)];
  const first = firstStep === step ? "" : say("first", { first: firstStep });
  if (!time.is_scaled) return say("time", { step, first, total });
  const [width, height, frames] = time.measured_size;
  const size = say("clip", { width, height, frames });
  return say("timeScaled", { step, first, total, measured: duration(time.measured_step_s, say), size });
}

/** What to offer in place of a job that does not fit: a text, and the changes that it stands for. */
export function offers(plan, say) {
  return plan.instead.map((changes) => {
    if (changes.frames) return { text: say("fewerFrames", changes), changes };
    if (changes.batch_size) return { text: say("oneClip"), changes };
    return { text: say("smaller", changes), changes };
  });
}

/** The widgets that an offer changes, as [name, value], where `sizes` can be chosen; undefined for one that cannot. */
export function widgetsOf({ width, height, ...plain }, sizes) {
  const size = () => sizes.find((name) => name.includes(`${width}×${height}`));
  return [...Object.entries(plain), ...(width ? [["resolution", size()]] : [])];
}
