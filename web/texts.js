// HyVideo Plan tells its plan in the node: ComfyUI keeps the texts that nodes give, but shows only those of its own.
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const NODE = "HyvPlan";
const WIDGET = "plan";
const LEAST_PX = [420, 260];

/** The node's text field, made when it is first needed. It is no input: it is neither saved nor sent. */
function field(node) {
  const known = node.widgets?.find(({ name }) => name === WIDGET);
  if (known) return known;
  const { widget } = ComfyWidgets.STRING(node, WIDGET, ["STRING", { multiline: true }], app);
  widget.serialize = false;
  widget.options = { ...widget.options, serialize: false, read_only: true };
  if (widget.inputEl) widget.inputEl.readOnly = true;
  node.setSize(node.size.map((px, side) => Math.max(px, LEAST_PX[side])));
  return widget;
}

app.registerExtension({
  name: "HyVideoStudio.Plan",
  beforeRegisterNodeDef(nodeType, { name }) {
    if (name !== NODE) return;
    const before = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      before?.call(this, output);
      if (output?.text) field(this).value = output.text.join("\n");
    };
  },
});
