// NiiVue behind the few words that the page needs. Voxels, slices and frames count from 0 in the order of the file that
// is shown, which holds every `step`th voxel of a volume that is too large for graphics.

import { listenToGestures } from "./gestures.js";
import { layout } from "./layout.js";
import { Marks } from "./marks.js";
import { Render } from "./render.js";
import { Ruler } from "./ruler.js";
import { Zoom } from "./zoom.js";

const { Niivue, NVImage, SLICE_TYPE } = globalThis.niivue;

const PLANES = {
  axial: { type: SLICE_TYPE.AXIAL, axis: 2 },
  coronal: { type: SLICE_TYPE.CORONAL, axis: 1 },
  sagittal: { type: SLICE_TYPE.SAGITTAL, axis: 0 },
};
const UNCERTAINTY = { // colours of the least to the largest; style.css shows the same
  R: [120, 120, 237, 255], G: [28, 28, 105, 250], B: [140, 140, 37, 160], A: [0, 150, 220, 255], I: [0, 32, 128, 255],
};
const REDRAW_MS = 60; // that a brush may take from one place to the next
const RGB = 128; // NIfTI's code of colours

/** A volume from the server, to be shown. */
export async function load(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error("the server no longer has it; drop it again");
  const name = url.split("/").at(-1); // its ending tells the format
  return NVImage.loadFromFile({ file: new File([await answer.blob()], name), name });
}

export class Viewer {
  changed = () => {}; // called whenever the crosshair, the frame, the zoom or the window has changed
  #redrawMs = 0; // that it took to show the label the last time
  frame = 0;
  crosshair = true;
  ruler = new Ruler(this);
  render = new Render(this);
  revision = 0; // of the label, counted with its changes
  pen = null; // takes the left button and one finger while the label is edited, see pen.js

  constructor() {
    this.nv = new Niivue({
      interactive: false, // see gestures.js
      isOrientationTextVisible: false, // see marks.js
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      isOrientCube: true,
      crosshairColor: [0.95, 0.75, 0.2, 1],
      crosshairWidth: 1.5,
      crosshairWidthUnit: "percent",
      crosshairGap: 10,
      backColor: [0, 0, 0, 1],
      loadingText: "",
      logLevel: "error",
    });
    this.nv.addColormap("uncertainty", UNCERTAINTY);
    this.zoom = new Zoom(this.nv, () => this.changed());
    this.nv.onLocationChange = ({ mm }) => {
      this.mm = mm;
      this.changed();
    };
  }

  /** @param canvas for NiiVue; @param marks a canvas above it */
  async attach(canvas, marks) {
    await this.nv.attachToCanvas(canvas);
    this.marks = new Marks(this, marks);
    const draw = this.nv.drawScene.bind(this.nv);
    this.nv.drawScene = () => {
      this.nv.customLayout = this.image && this.plane === "all" ? this.#layout() : [];
      draw();
      this.marks.draw();
    };
    await this.render.attach();
    listenToGestures(this, canvas);
  }

  #layout() {
    const { canvas } = this.nv;
    const { dimsRAS, pixDimsRAS } = this.image;
    const mm = [1, 2, 3].map((axis) => dimsRAS[axis] * pixDimsRAS[axis]);
    return layout([canvas.width, canvas.height], mm, PLANES[this.acquired].type);
  }

  get image() {
    return this.nv.volumes[0];
  }

  get label() {
    return this.nv.volumes[1];
  }

  get doubt() {
    return this.nv.volumes[2];
  }

  showImage(image, { plane, oriented, spacing_mm, windows, step }) {
    this.clear();
    const { max3D } = this.nv.uiData;
    if (Math.max(...image.hdr.dims.slice(1, 4)) > max3D) { // NiiVue would show it mirrored and without overlay
      throw new Error(`the graphics of this device take ${max3D} voxels along an axis, and it has more`);
    }
    this.oriented = oriented;
    this.measured = Boolean(spacing_mm);
    this.steps = step;
    this.ruler.clear();
    this.frame = 0;
    this.acquired = plane;
    this.setFirstWindow(windows[0]);
    if (this.first) [image.cal_min, image.cal_max] = this.first;
    this.nv.addVolume(image);
    this.nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
    this.lookAt(this.shape.map((size) => Math.floor(size / 2)));
    this.setPlane(plane);
  }

  showLabel(label, table) {
    label.setColormapLabel(table);
    this.table = table;
    while (this.label) this.nv.removeVolume(this.label);
    this.render.show(label);
    this.nv.addVolume(label);
    this.setFrame(this.frame);
  }

  /** Of each voxel in per cent, in place of the label's fill; null shows the fill again. */
  showDoubt(doubt, range) {
    if (this.doubt) this.nv.removeVolume(this.doubt);
    this.label.opacity = doubt ? 0 : 1;
    if (doubt) {
      doubt.colormap = "uncertainty";
      [doubt.cal_min, doubt.cal_max] = range;
      this.nv.addVolume(doubt);
    }
    this.setFrame(this.frame);
  }

  clear() {
    this.clearLabel();
    while (this.image) this.nv.removeVolume(this.image);
  }

  clearLabel() {
    this.render.clear();
    while (this.label) this.nv.removeVolume(this.nv.volumes.at(-1));
  }

  /** Show what has been changed in the label's voxels. @param soon more comes: of a large volume, outlines alone */
  redrawLabel(soon = false) {
    this.revision += 1;
    if (!soon || this.#redrawMs < REDRAW_MS) {
      const start = performance.now();
      this.nv.volumes.slice(1).forEach((volume, i) => this.nv.refreshLayers(volume, i + 1));
      this.#redrawMs = performance.now() - start;
    }
    this.nv.drawScene();
  }

  setColors(table) {
    if (!this.label) return;
    this.table = table;
    this.label.setColormapLabel(table);
    this.nv.updateGLVolume();
  }

  /** @param opacity of the fill; @param outlined whether structures have an outline */
  setOverlay(opacity, outlined) {
    this.nv.overlayAlphaShader = opacity;
    this.outlined = outlined;
    this.nv.drawScene();
  }

  // ---- window ----

  get window() {
    return [this.image.cal_min, this.image.cal_max];
  }

  setWindow(low, high) {
    if (!(low < high)) return this.changed();
    [this.image.cal_min, this.image.cal_max] = [low, high];
    this.nv.refreshLayers(this.image, 0);
    this.nv.drawScene();
    this.changed();
  }

  /** The one that a double click brings back; none of an image in colour. */
  setFirstWindow(window) {
    this.first = window ? [window.low, window.high] : null;
  }

  resetWindow() {
    if (this.first) this.setWindow(...this.first);
  }

  // ---- planes, slices and frames ----

  setPlane(plane) {
    this.plane = plane;
    this.setCrosshair(this.crosshair);
    this.nv.setSliceType(plane === "all" ? SLICE_TYPE.MULTIPLANAR : PLANES[plane].type);
    this.nv.createOnLocationChange();
  }

  /** Whether it is drawn; of a single plane by `Marks`. */
  setCrosshair(shown) {
    this.crosshair = shown;
    this.nv.opts.crosshairWidth = shown && this.plane === "all" ? 0.3 : 0;
    this.nv.drawScene();
  }

  setRadiological(radiological) {
    this.nv.opts.sagittalNoseLeft = radiological; // which radiologists see from the patient's left
    this.nv.setRadiologicalConvention(radiological);
    this.changed();
  }

  get radiological() {
    return this.nv.getRadiologicalConvention();
  }

  /** Size of the array along X Y Z. */
  get shape() {
    return this.image.hdr.dims.slice(1, 4); // as stored; `image.dims` may be turned
  }

  get frames() {
    return this.image.nFrame4D;
  }

  setFrame(frame) {
    this.frame = Math.min(Math.max(frame, 0), this.frames - 1);
    for (const volume of this.nv.volumes) volume.frame4D = this.frame;
    this.nv.updateGLVolume();
    this.nv.createOnLocationChange();
  }

  /** The axis that slices are counted along; with all planes shown, that of the acquisition. */
  get #axis() {
    return PLANES[this.plane === "all" ? this.acquired : this.plane].axis;
  }

  /** The stored axis along right, anterior or superior (0, 1, 2), and whether it runs against it. */
  stored(along) {
    const signed = this.image.permRAS[along];
    return { axis: Math.abs(signed) - 1, flipped: signed < 0 };
  }

  get slices() {
    return this.image.dimsRAS[this.#axis + 1];
  }

  get slice() {
    return this.voxel[this.stored(this.#axis).axis];
  }

  setSlice(slice) {
    this.step(this.#axis, slice - this.slice);
  }

  /** Move along right, anterior or superior (0, 1, 2), by slices as stored. */
  step(along, slices) {
    const { axis } = this.stored(along);
    const voxel = this.voxel;
    voxel[axis] = Math.min(Math.max(voxel[axis] + slices, 0), this.shape[axis] - 1);
    this.lookAt(voxel);
  }

  // ---- the crosshair ----

  /** Voxel (x, y, z) under the crosshair. */
  get voxel() {
    const there = this.nv.frac2vox(this.nv.scene.crosshairPos);
    const voxel = [];
    for (const along of [0, 1, 2]) {
      const { axis, flipped } = this.stored(along);
      voxel[axis] = flipped ? this.shape[axis] - 1 - there[along] : there[along];
    }
    return voxel;
  }

  /** Where a voxel lies in the volume, as NiiVue counts: from 0 to 1 to the right, the front and the head. */
  fraction(voxel) {
    return this.nv.vox2frac([0, 1, 2].map((along) => {
      const { axis, flipped } = this.stored(along);
      return flipped ? this.shape[axis] - 1 - voxel[axis] : voxel[axis];
    }));
  }

  lookAt(voxel) {
    this.nv.scene.crosshairPos = this.fraction(voxel);
    this.nv.drawScene();
    this.nv.createOnLocationChange();
  }

  /** What the image holds under the crosshair: one number, or red, green and blue. */
  get value() {
    const { img, hdr } = this.image;
    const at = this.#index(this.image);
    if (hdr.datatypeCode === RGB) return [...img.subarray(3 * at, 3 * at + 3)];
    return [img[at] * (hdr.scl_slope || 1) + hdr.scl_inter];
  }

  get labelValue() {
    return this.label.img[this.#index(this.label)];
  }

  get doubtValue() {
    return this.doubt.img[this.#index(this.doubt)];
  }

  #index(volume) {
    const [x, y, z] = this.voxel;
    const [nx, ny, nz] = this.shape;
    return x + nx * (y + ny * (z + nz * volume.frame4D));
  }
}
