// The panel on a sampler's node: the moving preview, and lines of text below it. It is made when a run first has
// something to show, and is no part of the workflow: neither saved with it nor sent to the server.
import { app } from "../../../scripts/app.js";
import { makeRoom } from "../room.js";
import { textsOf } from "../say.js";
import { progressLines } from "./lines.js";
import { Player } from "./player.js";

const PREVIEW_PX = 180;
const TEXT_PX = 120;
const STYLE = {
  root: "display:flex; flex-direction:column; gap:4px; box-sizing:border-box; overflow:hidden;",
  canvas: "flex:1 1 0; min-height:0; width:100%; object-fit:contain;",
  text: "flex:none; margin:0; overflow:auto; white-space:pre-wrap; font:11px/1.4 sans-serif; opacity:0.85;",
};

const panels = new WeakMap();

/** The panel of a node, empty if the job is another than that which it has shown. */
export function panelOf(node, job) {
  let panel = panels.get(node);
  if (!panel || !node.widgets?.includes(panel.widget)) {
    panel = new Panel(node);
    panels.set(node, panel);
  }
  if (panel.job !== job) panel.clear();
  panel.job = job;
  return panel;
}

class Panel {
  constructor(node) {
    this.node = node;
    this.player = new Player();
    this.text = Object.assign(document.createElement("pre"), { style: STYLE.text });
    this.text.style.height = `${TEXT_PX}px`;
    this.text.dataset.testid = "hyv-progress";
    this.player.canvas.style = STYLE.canvas;
    this.player.canvas.hidden = true;
    const root = Object.assign(document.createElement("div"), { style: STYLE.root });
    root.append(this.player.canvas, this.text);
    this.widget = node.addDOMWidget("hyvideo_preview", "hyvideo_preview", root, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => this.height,
    });
    this.widget.serialize = false;
    this.root = root;
    this.#fit();
  }

  /** What the panel needs; a node that is made larger gives the rest to the preview. */
  get height() {
    return TEXT_PX + (this.player.canvas.hidden ? 0 : PREVIEW_PX);
  }

  tell(progress) {
    const say = textsOf(app.extensionManager.setting.get("Comfy.Locale"));
    this.text.dataset.state = progress.state;
    this.text.textContent = progressLines(progress, say).join("\n");
  }

  async show(sheet) {
    if (!(await this.player.play(sheet))) return;
    this.player.canvas.dataset.frames = sheet.frames;
    if (this.player.canvas.hidden) {
      this.player.canvas.hidden = false;
      this.#fit();
    }
  }

  /** Show nothing of the run before. */
  clear() {
    this.text.textContent = "";
    this.player.clear();
    if (this.player.canvas.hidden) return;
    this.player.canvas.hidden = true;
    this.#fit();
  }

  #fit() {
    this.root.style.minHeight = `${this.height}px`;
    makeRoom(this.node);
  }
}
