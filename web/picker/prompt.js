// The open workflow in the API format, as far as a plan reads it: all wires, and the values of the pack's own nodes.
// The frontend's graphToPrompt is for jobs that start: it asks every widget what to send, and those of a microphone, a
// camera or a 3D view then record, upload or complain.
import { app } from "../../../scripts/app.js";
import { isOurs } from "../pack.js";

/** A node's mode, where it is not part of a job. */
const NEVER = 2;
const BYPASS = 4;
/** The host's nodes that hold one value are run; this one is the frontend's, and is not. */
const HELD_BY_HOST = /^Primitive(Int|Float|String|Boolean)$/;
const FRONTENDS_PRIMITIVE = "PrimitiveNode";

/** Nodes by their ids in a job. `boxes` are the subgraph nodes that `graph` lies in, the outermost first. */
export function plannedPrompt(graph = app.rootGraph ?? app.graph, boxes = []) {
  const prompt = {};
  for (const node of graph.nodes) {
    if (node.mode === NEVER || node.mode === BYPASS) continue;
    if (node.subgraph) Object.assign(prompt, plannedPrompt(node.subgraph, [...boxes, node]));
    else if (!node.isVirtualNode) {
      const inputs = { ...values(node), ...wires(node, boxes) };
      prompt[idOf(node, boxes)] = { class_type: node.comfyClass ?? node.type, inputs };
    }
  }
  return prompt;
}

function idOf(node, boxes) {
  return [...boxes, node].map(({ id }) => id).join(":");
}

function values(node) {
  if (!isOurs(node) && !HELD_BY_HOST.test(node.type)) return {};
  const sent = (node.widgets ?? []).filter(({ name, options }) => name && options?.serialize !== false);
  return Object.fromEntries(sent.map(({ name, value }) => [name, value]));
}

function wires(node, boxes) {
  const sources = (node.inputs ?? []).map(({ name }, slot) => [name, intoInput(node, slot, boxes, new Set())]);
  return Object.fromEntries(sources.filter(([, source]) => source !== undefined));
}

/** What comes into an input: [id, slot] of another node, or a value; undefined if nothing does. */
function intoInput(node, slot, boxes, seen) {
  const link = node.graph.getLink(node.inputs[slot]?.link);
  const step = `${idOf(node, boxes)}/${slot}`;
  if (!link || seen.has(step)) return undefined; // Wires may go in a circle through what is bypassed.
  seen.add(step);
  return fromLink(link, node, boxes, node.inputs[slot].type, seen);
}

function fromLink(link, { graph }, boxes, type, seen) {
  if (!link.originIsIoNode) return outOf(graph.getNodeById(link.origin_id), link.origin_slot, boxes, type, seen);
  const [box, outer] = [boxes.at(-1), boxes.slice(0, -1)];
  const input = box.inputs[link.origin_slot];
  if (input?.link != null) return intoInput(box, link.origin_slot, outer, seen);
  return input && box.getWidgetFromSlot(input)?.value;
}

/** What comes out of a node's output: it, or what it hands on. */
function outOf(node, slot, boxes, type, seen) {
  if (!node || node.mode === NEVER) return undefined;
  if (node.mode === BYPASS) return intoInput(node, handedOn(node, slot, type), boxes, seen);
  if (node.subgraph) {
    const link = node.subgraph.outputs[slot]?.getLinks()[0];
    return link && fromLink(link, { graph: node.subgraph }, [...boxes, node], type, seen);
  }
  if (node.type === FRONTENDS_PRIMITIVE) return node.widgets?.[0]?.value;
  if (!node.isVirtualNode) return [idOf(node, boxes), slot];
  // A reroute, or a pack's node that stands for a wire from elsewhere in the same graph.
  const link = node.getInputLink(slot);
  return link ? intoInput(node.graph.getNodeById(link.target_id), link.target_slot, boxes, seen) : undefined;
}

/** The input that a bypassed node hands on as an output: that beside it if it is of the type, else the first that is. */
function handedOn({ inputs, outputs }, slot, type) {
  const isLike = (input) => [type, outputs[slot].type].every((each) => LiteGraph.isValidConnection(input.type, each));
  if (inputs[slot] && (type === "*" || isLike(inputs[slot]))) return slot;
  const same = inputs.findIndex((input) => input.type === type);
  return same >= 0 ? same : inputs.findIndex(isLike);
}
