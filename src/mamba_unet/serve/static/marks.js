// What is written over the slices, on a canvas of its own: outlines of the structures, letters of the directions, scale
// bars, the crosshair of a single plane and the ruler. Lengths are pixels of the page.

import { outlines } from "./outlines.js";

const FONT_PX = 15;
const GAP_PX = 8;
const LINE_PX = 1.5;
const CROSS_PX = [7, 16]; // from where to where its arms reach
const LEAST_BAR_PX = 90; // of a slice's sides, for a scale bar in it
const BAR_SHARE = 0.25; // of a slice's width, at most
const AXES = [[0, 1, 2], [0, 2, 1], [1, 2, 0]]; // of an axial, coronal, sagittal slice: to the right, up, across

export class Marks {
  tiles = []; // the slices that are shown
  #lines = new Map(); // of what is shown now, for zoom and pan to be quick

  constructor(viewer, canvas) {
    this.viewer = viewer;
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
  }

  draw() {
    const { nv, image } = this.viewer;
    const { width, height } = nv.canvas;
    const { context } = this;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    this.tiles = [];
    if (!image) return this.#lines.clear();
    const { dpr } = nv.uiData;
    context.scale(dpr, dpr);
    const tiles = this.tiles = nv.screenSlices.filter(({ axCorSag }) => axCorSag < 3).map((slice) => new Tile(nv, slice, dpr));
    const kept = new Map();
    for (const tile of tiles) {
      context.save();
      context.beginPath();
      context.rect(tile.left, tile.top, tile.width, tile.height);
      context.clip();
      if (this.viewer.label && this.viewer.outlined) this.#drawOutlines(tile, kept);
      if (this.viewer.oriented) this.#drawLetters(tile);
      if (this.viewer.measured && tile.width > LEAST_BAR_PX && tile.height > LEAST_BAR_PX) this.#drawBar(tile);
      if (this.viewer.crosshair && tiles.length === 1) this.#drawCrosshair(tile);
      this.viewer.ruler.draw(tile, context, this.#write.bind(this));
      context.restore();
    }
    this.#lines = kept;
  }

  /** The slice at a place of the page. */
  tileAt(x, y) {
    return this.tiles.find(({ left, top, width, height }) => x >= left && y >= top && x < left + width && y < top + height);
  }

  #drawCrosshair(tile) {
    const { nv } = this.viewer;
    const voxel = nv.frac2vox(nv.scene.crosshairPos);
    const [x, y] = [tile.x(voxel[tile.axes[0]]), tile.y(voxel[tile.axes[1]])];
    const { context } = this;
    for (const [style, line] of [["#0009", 3], ["#fffc", 1.5]]) {
      Object.assign(context, { strokeStyle: style, lineWidth: line, lineCap: "butt" });
      context.beginPath();
      for (const [across, down] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + CROSS_PX[0] * across, y + CROSS_PX[0] * down);
        context.lineTo(x + CROSS_PX[1] * across, y + CROSS_PX[1] * down);
      }
      context.stroke();
    }
  }

  #drawOutlines(tile, kept) {
    const { viewer, context } = this;
    const { label, table } = viewer;
    const key = `${label.id} ${viewer.revision} ${viewer.frame} ${tile.type} ${tile.slice}`;
    const lines = this.#lines.get(key) ?? outlines(viewer, label, tile);
    kept.set(key, lines);
    context.lineWidth = viewer.doubt ? LINE_PX / 2 : LINE_PX; // uncertainty lies along the edges
    context.lineJoin = context.lineCap = "round";
    for (const [value, segments] of lines) {
      if (!table.A[value]) continue;
      context.strokeStyle = `rgb(${table.R[value]} ${table.G[value]} ${table.B[value]})`;
      context.beginPath();
      for (let i = 0; i < segments.length; i += 4) {
        context.moveTo(tile.x(segments[i]), tile.y(segments[i + 1]));
        context.lineTo(tile.x(segments[i + 2]), tile.y(segments[i + 3]));
      }
      context.stroke();
    }
  }

  #drawLetters({ type, left, top, width, height }) {
    const { radiological } = this.viewer;
    const sides = type === 2 ? "AP" : "RL";
    const [start, end] = radiological ? sides : [...sides].reverse();
    const [above, below] = type === 0 ? "AP" : "SI";
    const far = GAP_PX + FONT_PX / 2;
    if (width > 4 * far) {
      this.#write(start, left + far, top + height / 2);
      this.#write(end, left + width - far, top + height / 2);
    }
    if (height > 4 * far) {
      this.#write(above, left + width / 2, top + far);
      this.#write(below, left + width / 2, top + height - far);
    }
  }

  #drawBar({ left, top, height, width, mm }) {
    const most = BAR_SHARE * width * mm;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = power * [5, 2, 1].find((times) => times * power <= most);
    const text = length < 10 ? `${length} mm` : `${length / 10} cm`;
    const [x, y, across] = [left + GAP_PX + 4, top + height - GAP_PX - 6, length / mm];
    const { context } = this;
    for (const [style, line] of [["#000", 4], ["#fff", 2]]) {
      context.strokeStyle = style;
      context.lineWidth = line;
      context.lineCap = "butt";
      context.beginPath();
      for (const [fromX, fromY, toX, toY] of [[x, y, x + across, y], [x, y - 5, x, y + 1], [x + across, y - 5, x + across, y + 1]]) {
        context.moveTo(fromX, fromY);
        context.lineTo(toX, toY);
      }
      context.stroke();
    }
    this.#write(text, x + across / 2, y - FONT_PX, "#fff", 12);
  }

  #write(text, x, y, color = "#ffcc40", size = FONT_PX) {
    const { context } = this;
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    context.lineWidth = 3;
    context.strokeStyle = "#000";
    context.strokeText(text, x, y);
    context.fillStyle = color;
    context.fillText(text, x, y);
  }
}

/** A slice on the screen: where it is, and where its voxels are. Voxels count along right, anterior and superior. */
class Tile {
  constructor(nv, { axCorSag, leftTopWidthHeight, leftTopMM, fovMM }, dpr) {
    const [left, top, width, height] = leftTopWidthHeight.map((value) => value / dpr);
    this.type = axCorSag;
    this.axes = AXES[axCorSag];
    this.slice = nv.frac2vox(nv.scene.crosshairPos)[this.axes[2]];
    Object.assign(this, { left: Math.min(left, left + width), top, width: Math.abs(width), height });
    this.mm = Math.abs(fovMM[0] / width); // of a pixel
    const size = nv.volumes[0].dimsRAS;
    const [from, to] = [[0, 0, 0], [1, 1, 1]].map((frac) => nv.frac2mm(frac));
    const line = (axis, at, length, zero, field) => { // from voxels to pixels
      const perVoxel = (to[axis] - from[axis]) / size[axis + 1];
      return (voxel) => at + ((from[axis] + (voxel + 0.5) * perVoxel - zero) / field) * length;
    };
    // a negative width stands for a slice turned round
    this.x = line(this.axes[0], width < 0 ? left : this.left, width, leftTopMM[0], fovMM[0]);
    this.y = line(this.axes[1], top + height, -height, leftTopMM[1], fovMM[1]);
  }

  /** Where a place of the page lies, in voxels along the slice's axes, fractions of them too. */
  voxelAt(x, y) {
    return [[x, this.x], [y, this.y]].map(([at, place]) => (at - place(0)) / (place(1) - place(0)));
  }
}
