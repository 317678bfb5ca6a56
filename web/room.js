// Room that a node grows by for what it shows of a run. A saved workflow opens without that, so it is saved without it.

/** By node, its size [width, height] in px before it grew, and after. */
const growths = new WeakMap();

/** The node's size without what it has grown by; a side that the user has changed since is as it is. */
function sizeWithout({ before, after }, size) {
  return Array.from(size, (px, side) => (px === after[side] ? before[side] : px));
}

function growthOf(node) {
  if (growths.has(node)) return growths.get(node);
  const growth = { before: [...node.size], after: [...node.size] };
  growths.set(node, growth);
  const { onSerialize } = node;
  node.onSerialize = function (data) {
    onSerialize?.call(this, data);
    data.size = sizeWithout(growth, data.size);
  };
  return growth;
}

/** Make a node as large as its widgets need, and no larger than that or than the user made it. */
export function makeRoom(node, leastWidth = 0) {
  const growth = growthOf(node);
  growth.before = sizeWithout(growth, node.size);
  const needed = node.computeSize();
  node.setSize([Math.max(growth.before[0], needed[0], leastWidth), Math.max(growth.before[1], needed[1])]);
  growth.after = [...node.size];
  node.setDirtyCanvas(true, true);
}
