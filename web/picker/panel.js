// The picker's part of a node. It is no part of the workflow: neither saved with it nor sent to the server.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { costLines, offers, widgetsOf } from "../cost.js";
import { textsOf } from "../say.js";
import { isWired, jobId, setWidget, widgetOf } from "./graph.js";
import { aspect, framesOf, latentShape, secondsOf, snappedFrames, snappedSide } from "./size.js";

/** What brings the value of a widget to what the model can make, and the text that tells of it. */
const GRIDS = {
  frames: [snappedFrames, "snappedFrames"],
  "resolution.width": [snappedSide, "snappedSides"],
  "resolution.height": [snappedSide, "snappedSides"],
};
const TRAINED_FRAMES = 129;
const MIN_WIDTH_PX = 340;
const SHAPE_PX = 34;
const STYLE = {
  content: "display:flex; flex-direction:column; gap:4px; padding:2px 4px; font:11px/1.4 sans-serif;",
  row: "display:flex; align-items:center; gap:6px;",
  frame: `flex:none; display:flex; align-items:center; justify-content:center; width:${SHAPE_PX}px; height:${SHAPE_PX}px;`,
  shape: "box-sizing:border-box; border:1.5px solid currentColor; border-radius:2px; opacity:0.8;",
  field: "width:6em; font:inherit; color:inherit; background:rgba(127,127,127,0.2); border:1px solid rgba(127,127,127,0.5); border-radius:4px; padding:1px 4px;",
  note: "flex:1; opacity:0.85;",
  told: "display:flex; flex-direction:column; gap:4px;",
  cost: "white-space:pre-wrap; overflow-wrap:anywhere; opacity:0.85;",
  offer: "font:inherit; color:inherit; background:rgba(127,127,127,0.25); border:1px solid rgba(127,127,127,0.5); border-radius:4px; cursor:pointer; padding:1px 6px; text-align:left;",
};

function element(tag, style, testid) {
  const made = Object.assign(document.createElement(tag), { style });
  if (testid) made.dataset.testid = testid;
  return made;
}

export class Picker {
  /** What was last shown, asked for and seen, as text: other than what is now where something has changed since. */
  #shown = null;
  #asked = null;
  #seen = null;
  #request = 0;
  #answer = null;
  #snapped = "";
  #heard = new WeakSet();

  constructor(node) {
    this.node = node;
    this.say = textsOf("en");
    this.#build();
    this.widget = node.addDOMWidget("hyvideo_picker", "hyvideo_picker", this.root, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => this.height,
      getMaxHeight: () => this.height,
    });
    this.widget.serialize = false;
    new ResizeObserver(() => this.#fit()).observe(this.content);
  }

  #build() {
    this.root = element("div", "box-sizing:border-box;", "hyv-picker");
    this.content = element("div", STYLE.content);
    const frame = element("div", STYLE.frame);
    this.shape = element("div", STYLE.shape);
    frame.append(this.shape);
    this.size = element("div", STYLE.note, "hyv-picker-size");
    this.label = element("label", STYLE.row);
    this.seconds = element("input", STYLE.field, "hyv-picker-seconds");
    Object.assign(this.seconds, { type: "number", min: 0, step: "any" });
    this.name = element("span", "");
    this.label.append(this.name, this.seconds);
    this.length = element("div", STYLE.note, "hyv-picker-length");
    this.cost = element("div", STYLE.cost, "hyv-picker-cost");
    this.offers = element("div", `${STYLE.row} flex-wrap:wrap;`, "hyv-picker-offers");
    const [first, second] = [element("div", STYLE.row), element("div", STYLE.row)];
    first.append(frame, this.size);
    second.append(this.label, this.length);
    this.told = element("div", STYLE.told);
    this.told.append(this.cost, this.offers);
    this.content.append(first, second, this.told);
    this.root.append(this.content);
    this.seconds.addEventListener("change", () => this.#setSeconds());
    for (const event of ["pointerdown", "mousedown", "dblclick", "keydown", "wheel"]) {
      this.seconds.addEventListener(event, (happened) => happened.stopPropagation());
    }
  }

  /** Show what the node holds now; ask for the cost once the workflow (JSON) has been the same for a moment. */
  look(prompt) {
    const id = jobId(this.node);
    if (id === null) return;
    this.say = textsOf(app.extensionManager.setting.get("Comfy.Locale"));
    this.#snap();
    this.#show();
    this.#lockOffers();
    if (prompt === this.#seen && prompt !== this.#asked) {
      this.#asked = prompt;
      this.#ask(id, prompt);
    }
    this.#seen = prompt;
  }

  /** Ask anew: what is free, or known of the time, has changed. */
  forget() {
    this.#asked = null;
  }

  /** What the node makes: the choice of its resolution, and width, height and frames, NaN where they are not known. */
  #clip() {
    const choice = String(widgetOf(this.node, "resolution")?.value ?? "");
    const sides = /(\d+)×(\d+)/.exec(choice)?.slice(1) ?? ["width", "height"].map((side) => this.#held(side, "resolution."));
    const [width, height] = sides.map(Number);
    return { choice, width, height, frames: this.#held("frames") };
  }

  /** The value of a widget; of one that is wired, what the server found out. */
  #held(name, prefix = "") {
    const wired = isWired(this.node, prefix + name);
    return Number((wired ? this.#answer?.size?.[name] : widgetOf(this.node, prefix + name)?.value) ?? NaN);
  }

  /** The sizes of the list as [width, height]. */
  #official() {
    const values = widgetOf(this.node, "resolution")?.options?.values ?? [];
    return [...values].flatMap((name) => [...String(name).matchAll(/(\d+)×(\d+)/g)].map((found) => [+found[1], +found[2]]));
  }

  /** Bring frames and sides to what the model can make, unless somebody is typing. */
  #snap() {
    const active = document.activeElement;
    if (active !== this.seconds && /^(INPUT|TEXTAREA)$/.test(active?.tagName ?? "")) return;
    for (const name of Object.keys(GRIDS)) {
      const widget = widgetOf(this.node, name);
      if (!widget || isWired(this.node, name)) continue;
      this.#hear(name, widget);
      const value = this.#onGrid(name, widget.value);
      if (value !== widget.value) setWidget(this.node, name, value);
    }
  }

  /** The value on the widget's grid; what is changed for that is told. */
  #onGrid(name, asked) {
    const [snapped, text] = GRIDS[name];
    const value = Number.isFinite(asked) ? snapped(asked, this.#limits(name)) : asked;
    if (value !== asked) this.#tell(this.say(text, { asked, value, ...this.#limits(name) }));
    return value;
  }

  /** Hear what is typed into a widget: the frontend brings it to the grid by itself, but tells nobody. */
  #hear(name, widget) {
    if (this.#heard.has(widget)) return;
    this.#heard.add(widget);
    const { callback } = widget;
    widget.callback = (...given) => {
      this.#onGrid(name, given[0]);
      return callback?.apply(widget, given);
    };
  }

  #limits(name) {
    const { min, max } = widgetOf(this.node, name)?.options ?? {};
    return { min: min ?? 1, max: max ?? Infinity };
  }

  #setSeconds() {
    const asked = this.seconds.valueAsNumber;
    if (Number.isFinite(asked)) {
      const limits = this.#limits("frames");
      const frames = framesOf(asked, limits);
      const seconds = secondsOf(frames);
      setWidget(this.node, "frames", frames);
      this.#tell(asked === seconds ? "" : this.say("snappedSeconds", { asked, frames, seconds, ...limits }));
    }
    this.#shown = null;
    this.#show();
  }

  /** Keep a note on what was changed until the size is changed otherwise. */
  #tell(note) {
    this.#snapped = note;
    this.noteFor = null;
  }

  #show() {
    const clip = this.#clip();
    const wired = isWired(this.node, "frames");
    const shown = JSON.stringify([clip, wired, this.say("seconds"), this.#snapped]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    const size = JSON.stringify(clip);
    this.noteFor ??= size;
    if (this.noteFor !== size) this.#snapped = "";
    this.#showSize(clip);
    this.name.textContent = this.say("seconds");
    this.label.title = this.say("secondsTip");
    this.seconds.disabled = wired;
    this.seconds.value = Number.isFinite(clip.frames) ? secondsOf(clip.frames) : "";
    this.length.textContent = this.#snapped || (Number.isFinite(clip.frames) ? this.#lengthText(clip.frames) : "");
    if (this.#answer) this.#showCost();
  }

  #lengthText(frames) {
    if (frames === 1) return this.say("image");
    return this.say("frames", { frames, seconds: secondsOf(frames) });
  }

  #showSize(clip) {
    const { choice, width, height, frames } = clip;
    if (![width, height, frames].every(Number.isFinite)) {
      this.size.textContent = this.say("wired");
      return;
    }
    const scale = SHAPE_PX / Math.max(width, height);
    this.shape.style.width = `${width * scale}px`;
    this.shape.style.height = `${height * scale}px`;
    const named = /(\d+:\d+)/.exec(choice)?.[1];
    const official = this.#official().some(([w, h]) => w === width && h === height);
    const told = [
      this.say("size", { width, height, aspect: named ?? aspect(width, height), latent: latentShape(clip).join("×") }),
      this.say(official ? "trained" : "untrained"),
    ];
    if (frames > TRAINED_FRAMES) told.push(this.say("tooLong"));
    this.size.textContent = told.join(" · ");
  }

  async #ask(id, text) {
    const request = ++this.#request;
    this.cost.dataset.state = "asking";
    this.#setPending(true);
    if (!this.#answer) this.cost.textContent = this.say("working");
    const answer = await this.#planned(id, text);
    if (request !== this.#request) return;
    this.#answer = answer;
    this.#setPending(false);
    this.#showCost();
  }

  /** What is shown of another workflow than the open one is faint, and its offers cannot be taken. */
  #setPending(pending) {
    this.told.style.opacity = pending ? 0.5 : "";
    this.told.inert = pending;
  }

  async #planned(node, text) {
    try {
      const prompt = JSON.parse(text);
      if (!prompt[node]) return { code: "unconnected" };
      const body = JSON.stringify({ prompt, node });
      const headers = { "Content-Type": "application/json" };
      return await (await api.fetchApi("/hyvideo/plan?refusals=200", { method: "POST", headers, body })).json();
    } catch (error) {
      return { error: String(error) };
    }
  }

  #showCost() {
    const { error, code, missing } = this.#answer;
    const fits = this.#answer.fits;
    this.cost.dataset.state = error || code ? (code ?? "failed") : fits ? "fits" : "does-not-fit";
    this.cost.style.color = fits === false ? "#e5a400" : "";
    this.offers.replaceChildren();
    if (code === "unconnected") this.cost.textContent = this.say("unconnected");
    else if (missing) this.cost.textContent = this.say("failed", { error: this.say("missing", missing) });
    else if (error) this.cost.textContent = this.say("failed", { error });
    else {
      this.cost.textContent = costLines(this.#answer, this.say).join("\n");
      for (const offer of offers(this.#answer, this.say)) this.offers.append(this.#offerButton(offer));
    }
    this.#lockOffers();
    this.offers.hidden = !this.offers.childElementCount;
    this.offers.style.display = this.offers.hidden ? "none" : "flex";
  }

  #offerButton({ text, changes }) {
    const button = element("button", STYLE.offer, "hyv-picker-offer");
    button.textContent = text;
    const sizes = [...(widgetOf(this.node, "resolution")?.options?.values ?? [])].map(String);
    button.widgets = widgetsOf(changes, sizes);
    button.addEventListener("click", () => button.widgets.forEach((each) => setWidget(this.node, ...each)));
    button.addEventListener("pointerdown", (happened) => happened.stopPropagation());
    return button;
  }

  /** Offers whose values a wire gives, or a list does not have, cannot be taken. A wire need not change the workflow. */
  #lockOffers() {
    for (const button of this.offers.children) {
      button.disabled = button.widgets.some(([name, value]) => value === undefined || isWired(this.node, name));
      button.style.opacity = button.disabled ? 0.5 : "";
    }
  }

  /** As high as the content is; the node is made wide and high enough for it. */
  #fit() {
    this.height = this.content.offsetHeight + 4;
    this.root.style.minHeight = `${this.height}px`;
    const [width, height] = this.node.computeSize();
    const wide = Math.max(width, this.node.size[0], MIN_WIDTH_PX);
    this.node.setSize([wide, Math.max(height, this.node.size[1])]);
    this.node.setDirtyCanvas(true, true);
  }
}
