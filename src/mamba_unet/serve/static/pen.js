// Changes of a label's voxels: brush, eraser and fill within a slice, and how they are taken back.
//
// The label that is changed is the one that the viewer shows, voxel for voxel in the order of its file. NiiVue's own
// drawing holds one frame, and its voxels in another order; so it is not used.

const AXES = [[0, 1, 2], [0, 2, 1], [1, 2, 0]]; // of an axial, coronal, sagittal slice: to the right, up, across
const STEPS = 100; // that can be taken back

export class Pen {
  tool = "brush"; // eraser, fill
  value = 1; // class
  size = 5; // diameter, in voxels of the finer side of a slice
  keep = false; // other structures
  changed = () => {}; // called after each step and its taking back
  refused = () => {}; // called with a sentence
  counted = () => {}; // called with each voxel's index and its class before and after
  #done = []; // steps
  #undone = [];
  #step = null; // the one that is drawn now: index -> class before
  #tile = -1;
  #drawing = false;
  #opened = null; // the label before all steps
  #dropped = false; // whether there were more steps than can be taken back

  constructor(viewer) {
    this.viewer = viewer;
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  /** Whether anything differs from the label that was opened, as far as is known. */
  get touched() {
    return this.canUndo || this.#dropped;
  }

  /** Begin with the label that is shown. */
  open() {
    this.forget();
    this.#opened = this.viewer.label.img.slice();
  }

  /** Have the label as it was opened. */
  revert() {
    if (this.touched) {
      this.viewer.label.img.set(this.#opened);
      this.viewer.redrawLabel();
    }
    this.forget();
  }

  forget() {
    this.#done = [];
    this.#undone = [];
    this.#step = this.#opened = null;
    this.#drawing = this.#dropped = false;
  }

  // ---- where ----

  /** The slice at a place of the page, and the voxel there along right, anterior and superior; null outside. */
  at([x, y], tile = null) {
    const { nv } = this.viewer;
    const [left, top] = [x * nv.uiData.dpr, y * nv.uiData.dpr];
    const index = tile ?? nv.tileIndex(left, top);
    const slice = nv.screenSlices[index];
    if (!slice || slice.axCorSag > 2) return null;
    const frac = nv.screenXY2TextureFrac(left, top, index, false);
    if (frac[0] < 0 && tile === null) return null;
    const size = this.viewer.image.dimsRAS;
    const voxel = [0, 1, 2].map((along) => Math.floor(frac[along] * size[along + 1]));
    const across = AXES[slice.axCorSag][2];
    voxel[across] = nv.frac2vox(nv.scene.crosshairPos)[across];
    return { index, slice, axes: AXES[slice.axCorSag], voxel };
  }

  /** Radius in pixels of the page of what the brush covers there. */
  radius({ slice, axes }) {
    const [width, dpr] = [Math.abs(slice.leftTopWidthHeight[2]), this.viewer.nv.uiData.dpr];
    return (this.#radius(axes) * width) / Math.abs(slice.fovMM[0]) / dpr;
  }

  #radius(axes) {
    return (this.size / 2) * Math.min(this.#spacing(axes[0]), this.#spacing(axes[1]));
  }

  #spacing(along) {
    return Math.abs(this.viewer.image.pixDimsRAS[along + 1]) || 1;
  }

  /** Index in the label's array of a voxel along right, anterior and superior; -1 outside. */
  #index(voxel) {
    const { shape, frame } = this.viewer;
    const strides = [1, shape[0], shape[0] * shape[1]];
    let index = frame * shape[0] * shape[1] * shape[2];
    for (const along of [0, 1, 2]) {
      const { axis, flipped } = this.viewer.stored(along);
      if (voxel[along] < 0 || voxel[along] >= shape[axis]) return -1;
      index += strides[axis] * (flipped ? shape[axis] - 1 - voxel[along] : voxel[along]);
    }
    return index;
  }

  // ---- drawing ----

  /** From one place of the page to another, with the tool. */
  draw(from, to) {
    if (!this.#drawing) {
      const start = this.at(from);
      if (!start) return;
      this.#tile = start.index;
      this.#drawing = true;
      this.begin();
      if (this.tool === "fill") return this.fill(start.voxel, start.axes);
    }
    if (this.tool === "fill") return;
    const [start, end] = [this.at(from, this.#tile), this.at(to, this.#tile)];
    if (!start || !end) return;
    const count = Math.max(1, ...end.voxel.map((at, axis) => Math.abs(at - start.voxel[axis])));
    for (let i = 0; i <= count; i++) {
      this.dab(start.voxel.map((at, axis) => Math.round(at + ((end.voxel[axis] - at) * i) / count)), end.axes);
    }
    this.viewer.redrawLabel(true);
  }

  /** The tool at the crosshair, in the slice of these axes. */
  use(axes) {
    const { nv } = this.viewer;
    const voxel = [...nv.frac2vox(nv.scene.crosshairPos)];
    this.begin();
    if (this.tool === "fill") this.fill(voxel, axes);
    else this.dab(voxel, axes);
    this.#finish();
  }

  begin() {
    this.#step ??= new Map();
  }

  /** The end of what the finger or button drew. */
  end() {
    if (!this.#drawing) return;
    this.#drawing = false;
    this.#finish();
  }

  /** It was the first of two fingers: nothing is drawn. */
  cancel() {
    this.#drawing = false;
    if (!this.#step) return;
    for (const [index, before] of this.#step) this.#put(index, before);
    this.#step = null;
    this.viewer.redrawLabel();
  }

  #finish() {
    const step = this.#step;
    this.#step = null;
    if (!step?.size) return;
    const { img } = this.viewer.label;
    const at = Uint32Array.from(step.keys());
    const [before, after] = [Uint8Array.from(step.values()), Uint8Array.from(at, (index) => img[index])];
    this.#done.push({ at, before, after, frame: this.viewer.frame });
    if (this.#done.length > STEPS) this.#dropped = Boolean(this.#done.shift());
    this.#undone = [];
    this.viewer.redrawLabel();
    this.changed();
  }

  dab(voxel, [right, up]) {
    const radius = this.#radius([right, up]);
    const [width, height] = [this.#spacing(right), this.#spacing(up)];
    const [far, high] = [Math.floor(radius / width), Math.floor(radius / height)];
    const there = [...voxel];
    for (let y = -high; y <= high; y++) {
      for (let x = -far; x <= far; x++) {
        if ((x * width) ** 2 + (y * height) ** 2 > radius ** 2) continue;
        there[right] = voxel[right] + x;
        there[up] = voxel[up] + y;
        this.#paint(this.#index(there));
      }
    }
  }

  #paint(index) {
    if (index < 0) return;
    const before = this.viewer.label.img[index];
    const erasing = this.tool === "eraser";
    if (this.keep && before && before !== this.value) return;
    this.#change(index, erasing ? 0 : this.value);
  }

  /** Give the class to all of the slice that is joined to a voxel and of its class. */
  fill(voxel, [right, up, across]) {
    const { img } = this.viewer.label;
    const size = this.viewer.image.dimsRAS;
    const [width, height] = [size[right + 1], size[up + 1]];
    const there = [];
    there[across] = voxel[across];
    const index = (x, y) => ((there[right] = x), (there[up] = y), this.#index(there));
    const first = index(voxel[right], voxel[up]);
    if (first < 0 || img[first] === this.value) return;
    const before = img[first];
    if (this.keep && before) return this.refused("That is another structure, and others are kept.");
    const seen = new Uint8Array(width * height);
    const waiting = [[voxel[right], voxel[up]]];
    seen[voxel[right] + width * voxel[up]] = 1;
    const found = [];
    while (waiting.length) {
      const [x, y] = waiting.pop();
      const at = index(x, y);
      if (img[at] !== before) continue;
      if (!before && (!x || !y || x === width - 1 || y === height - 1)) {
        return this.refused("That area reaches the border of the image: close its outline with the brush first.");
      }
      found.push(at);
      for (const [nextX, nextY] of [[x - 1, y], [x + 1, y], [x, y - 1], [x, y + 1]]) {
        if (nextX < 0 || nextY < 0 || nextX >= width || nextY >= height || seen[nextX + width * nextY]) continue;
        seen[nextX + width * nextY] = 1;
        waiting.push([nextX, nextY]);
      }
    }
    for (const at of found) this.#change(at, this.value);
  }

  #change(index, value) {
    const before = this.viewer.label.img[index];
    if (before === value) return;
    if (!this.#step.has(index)) this.#step.set(index, before);
    this.#put(index, value);
  }

  #put(index, value) {
    const { img } = this.viewer.label;
    this.counted(index, img[index], value);
    img[index] = value;
  }

  // ---- and back ----

  undo() {
    this.#repeat(this.#done, this.#undone, "before");
  }

  redo() {
    this.#repeat(this.#undone, this.#done, "after");
  }

  #repeat(from, to, which) {
    if (this.#drawing || !from.length) return;
    const step = from.pop();
    to.push(step);
    step.at.forEach((index, i) => this.#put(index, step[which][i]));
    this.viewer.redrawLabel();
    if (step.frame !== this.viewer.frame) this.viewer.setFrame(step.frame);
    this.viewer.lookAt(this.#stored(step.at[step.at.length >> 1]));
    this.changed();
  }

  /** Voxel (x, y, z) as stored. */
  #stored(index) {
    const [nx, ny, nz] = this.viewer.shape;
    return [index % nx, Math.floor(index / nx) % ny, Math.floor(index / (nx * ny)) % nz];
  }
}
