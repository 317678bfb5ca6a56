// The open graph: where a node is in it, and what its widgets hold.
import { app } from "../../../scripts/app.js";

function root() {
  return app.rootGraph ?? app.graph;
}

/** The id that a job has for a node: "7", or "3:7" for one inside the subgraph of node 3; null if it is not there. */
export function jobId(node, graph = root()) {
  for (const each of graph?.nodes ?? []) {
    if (each === node) return String(each.id);
    const inner = each.subgraph && jobId(node, each.subgraph);
    if (inner) return `${each.id}:${inner}`;
  }
  return null;
}

export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/** Whether a widget's value comes by a wire. */
export function isWired(node, name) {
  return Boolean(node.inputs?.some((input) => input.widget?.name === name && input.link != null));
}

/** Set a widget as a user would. */
export function setWidget(node, name, value) {
  const widget = widgetOf(node, name);
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  node.setDirtyCanvas?.(true, true);
}
