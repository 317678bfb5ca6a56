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
  const isCpu = plan.memory.device === "cpu" && !plan.memory.is_given;
  const where = ofWhat(isCpu, say);
  const lines = [samplingLine(plan, isCpu, where, say), decodingLine(plan, where, say)];
  if (!plan.fits && !plan.instead.length) lines.push(say("nothingFits"));
  if (plan.sampling.fits) lines.push(timeLine(plan, say));
  return lines;
}

function ofWhat(isCpu, say) {
  return say(isCpu ? "ofHost" : "free");
}

function samplingLine({ sampling, memory }, isCpu, where, say) {
  if (!sampling.fits) {
    const free = gigabytes(memory.free_bytes);
    return say("samplingTooBig", { needed: gigabytes(sampling.needed_bytes), free, where });
  }
  return plannedSampling(sampling, isCpu, say);
}

/** The line that tells of a plan of sampling that fits (`sampling` of /hyvideo/plan and of a run's progress). */
export function plannedSampling(sampling, isCpu, say) {
  const [peak, free] = [gigabytes(sampling.peak_bytes), gigabytes(sampling.free_bytes)];
  const told = [
    say("sampling", { peak, free, where: ofWhat(isCpu, say) }),
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

function decodingLine({ decoding, memory }, where, say) {
  if (!decoding) return say("otherDecoder");
  if (decoding.fits === null) return say("decodingUnknown", { error: decoding.text });
  if (!decoding.fits) {
    const free = gigabytes(decoding.free_bytes ?? memory.free_bytes);
    return say("decodingTooBig", { needed: gigabytes(decoding.needed_bytes), free, where });
  }
  const tiles = decoding.tile_size_px
    ? say("tiles", { px: decoding.tile_size_px, frames: decoding.tile_frames })
    : say("whole");
  return say("decoding", { peak: gigabytes(decoding.peak_bytes), free: gigabytes(decoding.free_bytes), where, tiles });
}

function timeLine({ time }, say) {
  if (!time) return say("timeUnknown");
  const total = time.steps
    ? say("total", { time: duration(time.step_s * time.steps, say), steps: time.steps })
    : "";
  const step = duration(time.step_s, say);
  if (!time.is_scaled) return say("time", { step, total });
  const [width, height, frames] = time.measured_size;
  const size = say("clip", { width, height, frames });
  return say("timeScaled", { step, total, measured: duration(time.measured_step_s, say), size });
}

/** What to offer in place of a job that does not fit: a text, and the changes that it stands for. */
export function offers(plan, say) {
  return plan.instead.map((changes) => {
    if (changes.frames) return { text: say("fewerFrames", changes), changes };
    if (changes.batch_size) return { text: say("oneClip"), changes };
    return { text: say("smaller", changes), changes };
  });
}
