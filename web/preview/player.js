// Plays a clip that came as one picture with its frames in rows, without an end.

export class Player {
  #sheet = null;
  #picture = null;
  #frame = -1;
  #request = 0;
  #newest = 0;

  constructor() {
    this.canvas = document.createElement("canvas");
    this.canvas.dataset.testid = "hyv-preview";
    // Nothing is drawn while the canvas is out of sight, or gone with its node.
    new IntersectionObserver((entries) => this.#run(entries.at(-1).isIntersecting)).observe(this.canvas);
  }

  /**
   * Show another clip: a sheet as `hyvideo_core/preview/sheet.py` describes it, its picture as a data URL. False if
   * something newer came, or all was cleared, before it could be shown.
   */
  async play(sheet) {
    const number = ++this.#newest;
    const picture = new Image();
    picture.src = sheet.image;
    await picture.decode();
    if (number !== this.#newest) return false;
    [this.#sheet, this.#picture, this.#frame] = [sheet, picture, -1];
    Object.assign(this.canvas, { width: sheet.width, height: sheet.height });
    this.#draw(performance.now());
    return true;
  }

  clear() {
    this.#newest++;
    this.#sheet = null;
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  #run(isVisible) {
    cancelAnimationFrame(this.#request);
    const next = (now) => {
      this.#draw(now);
      this.#request = requestAnimationFrame(next);
    };
    if (isVisible) this.#request = requestAnimationFrame(next);
  }

  #draw(now) {
    if (!this.#sheet) return;
    const { frames, fps, columns, width, height, cell_width, cell_height } = this.#sheet;
    const frame = Math.floor((now / 1000) * fps) % frames;
    if (frame === this.#frame) return;
    this.#frame = frame;
    const [x, y] = [(frame % columns) * cell_width, Math.floor(frame / columns) * cell_height];
    this.canvas.getContext("2d").drawImage(this.#picture, x, y, width, height, 0, 0, width, height);
  }
}
