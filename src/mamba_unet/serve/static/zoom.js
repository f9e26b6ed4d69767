// How closely the slices are looked at, and which part of them.

const CLOSEST = 20;

export class Zoom {
  /** @param changed called after each change */
  constructor(nv, changed) {
    this.nv = nv;
    this.changed = changed;
  }

  get factor() {
    return this.nv.scene.pan2Dxyzmm[3];
  }

  /** @param at millimetres that stay where they are: by default the crosshair */
  by(factor, at = this.nv.frac2mm(this.nv.scene.crosshairPos)) {
    const [x, y, z, before] = this.nv.scene.pan2Dxyzmm;
    const zoom = Math.min(Math.max(before * factor, 1), CLOSEST);
    if (zoom === 1) return this.fit();
    this.#move([...[x, y, z].map((shift, axis) => shift + at[axis] * (before - zoom)), zoom]);
  }

  /** Move a zoomed image by millimetres along x, y and z. */
  pan(mm) {
    const [x, y, z, zoom] = this.nv.scene.pan2Dxyzmm;
    if (zoom > 1) this.#move([x + zoom * mm[0], y + zoom * mm[1], z + zoom * mm[2], zoom]);
  }

  /** Show all of it. */
  fit() {
    this.#move([0, 0, 0, 1]);
  }

  #move(pan) {
    this.nv.setPan2Dxyzmm(pan);
    this.changed();
  }
}
