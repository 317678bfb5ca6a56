// The size picker in HyVideo Empty Latent: seconds and frames, the shape, and what the size costs before it is queued.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { Picker } from "./picker/panel.js";

const NODE = "HyvEmptyLatent";
/** The frontend tells of some changes only; looking finds all of them, in both kinds of canvas. */
const LOOK_MS = 300;

const pickers = new Set();

function look() {
  if (document.hidden) return;
  for (const picker of pickers) picker.look();
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
    pickers.add(picker);
    const removed = node.onRemoved;
    node.onRemoved = function (...rest) {
      pickers.delete(picker);
      return removed?.apply(this, rest);
    };
  },
});
