// Arithmetic of sizes and lengths, as hyvideo_core/types.py has it: frames are 4n+1, sides multiples of 16 pixels.

export const FPS = 24;
const FRAME_STEP = 4;
export const SIDE_STEP_PX = 16;
const SPATIAL_COMPRESSION = 8;
/** Ratios of sides that are told as they are; others as a number to 1. */
const LARGEST_TERM = 21;

/** The number nearest to `value` on the grid first, first + step … that lies in [min, max]. */
function onGrid(value, first, step, { min, max }) {
  const lowest = first + Math.ceil((min - first) / step) * step;
  const highest = first + Math.floor((max - first) / step) * step;
  const nearest = first + Math.round((value - first) / step) * step;
  return Math.min(highest, Math.max(lowest, nearest));
}

/** The nearest 4n+1 frames within limits. */
export function snappedFrames(frames, limits) {
  return onGrid(frames, 1, FRAME_STEP, limits);
}

/** The nearest multiple of 16 pixels within limits. */
export function snappedSide(px, limits) {
  return onGrid(px, 0, SIDE_STEP_PX, limits);
}

export function framesOf(seconds, limits) {
  return snappedFrames(seconds * FPS, limits);
}

/** Seconds that so many frames last, without trailing zeros. */
export function secondsOf(frames) {
  return Number((frames / FPS).toFixed(3));
}

/** Frames, rows and columns of the latent of a clip. */
export function latentShape({ width, height, frames }) {
  return [(frames - 1) / FRAME_STEP + 1, height / SPATIAL_COMPRESSION, width / SPATIAL_COMPRESSION];
}

/** "16:9" for simple ratios of sides, else such as "1.76:1". */
export function aspect(width, height) {
  const divisor = commonDivisor(width, height);
  const [across, up] = [width / divisor, height / divisor];
  if (Math.max(across, up) <= LARGEST_TERM) return `${across}:${up}`;
  return width >= height ? `${(width / height).toFixed(2)}:1` : `1:${(height / width).toFixed(2)}`;
}

function commonDivisor(a, b) {
  return b ? commonDivisor(b, a % b) : a;
}
