// NiiVue behind the few words that the page needs. Voxels, slices and frames count from 0 in the order of the file that
// is shown, which holds every `step`th voxel of a scan that is too large for graphics.

const { Niivue, NVImage, SLICE_TYPE, DRAG_MODE, SHOW_RENDER } = globalThis.niivue;

const PLANES = {
  axial: { type: SLICE_TYPE.AXIAL, axis: 2 },
  coronal: { type: SLICE_TYPE.CORONAL, axis: 1 },
  sagittal: { type: SLICE_TYPE.SAGITTAL, axis: 0 },
};

/** A volume from the server, to be shown. */
export async function load(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error("the server no longer has it; drop it again");
  const name = url.split("/").at(-1); // its ending tells the format
  return NVImage.loadFromFile({ file: new File([await answer.blob()], name), name });
}

export class Viewer {
  /** @param changed called whenever the crosshair, the frame or the window has changed */
  constructor(changed) {
    this.changed = changed;
    this.frame = 0;
    this.nv = new Niivue({
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      showAllOrientationMarkers: true,
      dragAndDropEnabled: false,
      dragMode: DRAG_MODE.windowing,
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarPadPixels: 4,
      crosshairColor: [0.95, 0.75, 0.2, 1],
      crosshairWidth: 1.5,
      crosshairWidthUnit: "percent",
      crosshairGap: 10,
      fontColor: [1, 0.8, 0.25, 1],
      fontMinPx: 14,
      backColor: [0, 0, 0, 1],
      loadingText: "",
      logLevel: "error",
    });
    const above = this.nv.drawTextAbove.bind(this.nv);
    this.nv.drawTextAbove = ([x, y], ...rest) => above([x, y - this.nv.fontPx / 2], ...rest); // else the edge cuts it
    this.nv.keyDownListener = this.nv.keyUpListener = () => {}; // the page has its own keys
    this.nv.onLocationChange = (location) => {
      this.location = location;
      changed();
    };
    this.nv.onIntensityChange = () => changed();
  }

  async attach(canvas) {
    await this.nv.attachToCanvas(canvas);
  }

  get image() {
    return this.nv.volumes[0];
  }

  get label() {
    return this.nv.volumes[1];
  }

  showImage(image, { plane, oriented, window }) {
    this.clear();
    const { max3D } = this.nv.uiData;
    if (Math.max(...image.hdr.dims.slice(1, 4)) > max3D) { // NiiVue would show it mirrored and without overlay
      throw new Error(`the graphics of this device take ${max3D} voxels along an axis, and it has more`);
    }
    if (window && (image.cal_max > window[1] || image.cal_min < window[0])) {
      [image.robust_min, image.robust_max] = [image.cal_min, image.cal_max] = window; // as the network sees it
    }
    this.frame = 0;
    this.acquired = plane;
    this.nv.addVolume(image);
    this.nv.setIsOrientationTextVisible(oriented);
    this.nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
    this.lookAt(this.shape.map((size) => Math.floor(size / 2)));
    this.setPlane(plane);
  }

  showLabel(label, table) {
    label.setColormapLabel(table);
    while (this.label) this.nv.removeVolume(this.label);
    this.nv.addVolume(label);
    this.setFrame(this.frame);
  }

  clear() {
    while (this.image) this.nv.removeVolume(this.nv.volumes.at(-1));
  }

  setColors(table) {
    if (!this.label) return;
    this.label.setColormapLabel(table);
    this.nv.updateGLVolume();
  }

  setOpacity(opacity) {
    this.nv.overlayAlphaShader = opacity;
    this.nv.drawScene();
  }

  setWindow(low, high) {
    [this.image.cal_min, this.image.cal_max] = [low, high];
    this.nv.updateGLVolume();
  }

  get window() {
    return [this.image.cal_min, this.image.cal_max];
  }

  setPlane(plane) {
    this.plane = plane;
    this.nv.opts.crosshairWidth = plane === "all" ? 0.3 : 0;
    this.nv.setSliceType(plane === "all" ? SLICE_TYPE.MULTIPLANAR : PLANES[plane].type);
    this.nv.createOnLocationChange();
  }

  setRadiological(radiological) {
    this.nv.opts.sagittalNoseLeft = radiological; // which radiologists see from the patient's left
    this.nv.setRadiologicalConvention(radiological);
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
  #stored(axis) {
    const signed = this.image.permRAS[axis];
    return { axis: Math.abs(signed) - 1, flipped: signed < 0 };
  }

  get slices() {
    return this.image.dimsRAS[this.#axis + 1];
  }

  get slice() {
    return this.voxel[this.#stored(this.#axis).axis];
  }

  setSlice(slice) {
    const voxel = this.voxel;
    voxel[this.#stored(this.#axis).axis] = Math.min(Math.max(slice, 0), this.slices - 1);
    this.lookAt(voxel);
  }

  /** Voxel (x, y, z) under the crosshair. */
  get voxel() {
    const here = this.nv.frac2vox(this.nv.scene.crosshairPos);
    const voxel = [];
    for (const along of [0, 1, 2]) {
      const { axis, flipped } = this.#stored(along);
      voxel[axis] = flipped ? this.shape[axis] - 1 - here[along] : here[along];
    }
    return voxel;
  }

  lookAt(voxel) {
    const there = [0, 1, 2].map((along) => {
      const { axis, flipped } = this.#stored(along);
      return flipped ? this.shape[axis] - 1 - voxel[axis] : voxel[axis];
    });
    this.nv.scene.crosshairPos = this.nv.vox2frac(there);
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }
}
