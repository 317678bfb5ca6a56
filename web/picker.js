// The size picker in HyVideo Empty Latent: seconds and frames, the shape, and what the size costs before it is queued.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { Picker } from "./picker/panel.js";
import { plannedPrompt } from "./picker/prompt.js";

const NODE = "HyvEmptyLatent";
/** The frontend tells of some changes only; looking finds all of them, in both kinds of canvas. */
const LOOK_MS = 300;

/** Those of nodes that are in a graph. */
const pickers = new Set();

function look() {
  if (document.hidden || !pickers.size) return;
  const prompt = JSON.stringify(plannedPrompt());
  for (const picker of pickers) picker.look(prompt);
}

app.registerExtension({
  name: "HyVideoStudio.Picker",
  setup() {
    setInterval(look, LOOK_MS);
    // A run leaves its time, and other memory free than before.
    for (const event of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(event, () => pickers.forEach((picker) => picker.forget()));
    }
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const picker = new Picker(node);
    const { onAdded, onRemoved } = node;
    node.onAdded = function (...rest) {
      pickers.add(picker);
      return onAdded?.apply(this, rest);
    };
    node.onRemoved = function (...rest) {
      pickers.delete(picker);
      return onRemoved?.apply(this, rest);
    };
  },
});
