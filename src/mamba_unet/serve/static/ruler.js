// A distance in the plane of a slice. Its ends are voxels along the slice's axes, so that they follow zoom and pan.

import { $ } from "./dom.js";

const NEAR_PX = 12; // an end is taken hold of from here
const TICK_PX = 6;

export class Ruler {
  on = false;
  #line = null; // { type, slice, ends: [[x, y], [x, y]], held: 0 or 1 }

  constructor(viewer) {
    this.viewer = viewer;
  }

  toggle(on = !this.on) {
    this.on = on;
    this.#line = null;
    $("ruler").setAttribute("aria-pressed", on);
    this.viewer.nv.drawScene();
    this.viewer.changed();
  }

  clear() {
    this.#line = null;
  }

  /** The length in words; "" where there is none in what is shown. */
  get text() {
    const tile = this.#line && this.viewer.marks.tiles.find((tile) => this.#isIn(tile));
    return tile ? this.#length(tile) : "";
  }

  /** Begin a line at a place of the page, or take hold of an end. */
  begin([x, y]) {
    const tile = this.viewer.marks.tileAt(x, y);
    if (!tile) return;
    if (this.#isIn(tile)) {
      const held = this.#line.ends.findIndex(([h, v]) => Math.hypot(tile.x(h) - x, tile.y(v) - y) < NEAR_PX);
      if (held >= 0) return (this.#line.held = held);
    }
    const end = tile.voxelAt(x, y);
    this.#line = { type: tile.type, slice: tile.slice, ends: [end, end], held: 1 };
    this.viewer.nv.drawScene();
  }

  drag([x, y]) {
    const tile = this.#line && this.viewer.marks.tiles.find((tile) => this.#isIn(tile));
    if (!tile) return;
    this.#line.ends[this.#line.held] = tile.voxelAt(x, y);
    this.viewer.nv.drawScene();
    this.viewer.changed();
  }

  #isIn({ type, slice }) {
    return this.#line?.type === type && this.#line.slice === slice;
  }

  /** "12.3 mm"; of an image without voxel size, its pixels. */
  #length({ axes }) {
    const { viewer } = this;
    const [[fromX, fromY], [toX, toY]] = this.#line.ends;
    const sides = [toX - fromX, toY - fromY].map((voxels, i) =>
      voxels * (viewer.measured ? viewer.image.pixDimsRAS[axes[i] + 1] : viewer.steps[viewer.stored(axes[i]).axis]));
    return `${Math.hypot(...sides).toFixed(1)} ${viewer.measured ? "mm" : "pixels"}`;
  }

  draw(tile, context, write) {
    if (!this.#isIn(tile)) return;
    const [from, to] = this.#line.ends.map(([x, y]) => [tile.x(x), tile.y(y)]);
    const [across, down] = [to[0] - from[0], to[1] - from[1]];
    const length = Math.hypot(across, down);
    if (length < 1) return;
    const tick = [(-down / length) * TICK_PX, (across / length) * TICK_PX];
    for (const [style, width] of [["#000", 4], ["#fff", 2]]) {
      Object.assign(context, { strokeStyle: style, lineWidth: width, lineCap: "butt" });
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(...to);
      for (const [x, y] of [from, to]) {
        context.moveTo(x - tick[0], y - tick[1]);
        context.lineTo(x + tick[0], y + tick[1]);
      }
      context.stroke();
    }
    write(this.#length(tile), (from[0] + to[0]) / 2, (from[1] + to[1]) / 2 - 14, "#fff", 14);
  }
}
