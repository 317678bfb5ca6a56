// A node's text is shown in it: the plan, a rewritten prompt, what an old node does otherwise. ComfyUI keeps the texts
// that nodes give, but shows only those of its own.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";
import { findNode, nodeOf } from "./jobs.js";
import { makeRoom } from "./room.js";

const WIDGET = "hyvideo_text";
const WIDTH_PX = 420;
const TEXT_PX = 140;

function fieldOf(node) {
  return node.widgets?.find(({ name }) => name === WIDGET);
}

/** A node's text field, made when it is first needed. It is no input: it is neither saved nor sent. */
function newField(node) {
  const { widget } = ComfyWidgets.STRING(node, WIDGET, ["STRING", { multiline: true }], app);
  widget.serialize = false;
  Object.assign(widget.options, { serialize: false, read_only: true, getMinHeight: () => TEXT_PX });
  widget.inputEl.readOnly = true;
  widget.inputEl.dataset.testid = "hyv-text";
  makeRoom(node, WIDTH_PX);
  return widget;
}

function show(node, output) {
  if (node && output?.text) (fieldOf(node) ?? newField(node)).value = [output.text].flat().join("\n");
}

app.registerExtension({
  name: "HyVideoStudio.Texts",
  setup() {
    let job = null;
    api.addEventListener("execution_start", ({ detail }) => (job = detail.prompt_id));
    // A node that is computed anew may have nothing to tell now; one whose result is kept tells the same again.
    api.addEventListener("executing", ({ detail: id }) => {
      const node = id && nodeOf(job, id);
      const field = node && fieldOf(node);
      if (field) field.value = "";
    });
    api.addEventListener("executed", ({ detail }) => {
      show(nodeOf(detail.prompt_id, detail.display_node ?? detail.node), detail.output);
    });
  },
  /** Another tab, or a run of the history, has been opened with its results. */
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) show(findNode(id), output);
  },
});
