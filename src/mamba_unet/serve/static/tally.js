// What the table of structures says while somebody edits: the server's measures, kept up voxel by voxel.

const MM3_PER_ML = 1000;

export class Tally {
  #frames = new Map(); // frame -> class -> { voxels, sum, slices, border }

  /**
   * @param viewer whose label is edited
   * @param structures the server's measures of that label
   * @param image of the job: `slice_axis`, `spacing_mm`
   */
  constructor(viewer, structures, image) {
    Object.assign(this, { viewer, structures, image, axis: "xyz".indexOf(image.slice_axis) });
    [this.nx, this.ny, this.nz] = viewer.shape;
    this.bright = structures.some(({ mean_intensity }) => mean_intensity !== null);
  }

  /** Voxel `index` of the label turns from one class into another. */
  change(index, before, after) {
    const frame = Math.floor(index / (this.nx * this.ny * this.nz));
    const classes = this.#of(frame);
    if (before) this.#add(classes, before, index, -1);
    if (after) this.#add(classes, after, index, 1);
  }

  /** The structures as they are now. */
  measured() {
    const { spacing_mm } = this.image;
    const voxel_ml = spacing_mm && spacing_mm.reduce((product, size) => product * size, 1) / MM3_PER_ML;
    return this.structures.map((one) => {
      const counted = this.#frames.get(one.frame);
      if (!counted) return one; // nothing was changed there
      const { voxels, sum, slices, border } = counted.get(one.class_index) ?? this.#empty();
      const first = slices.findIndex((count) => count > 0);
      return {
        ...one,
        voxels,
        volume_ml: voxel_ml === null || one.volume_ml === null ? null : voxels * voxel_ml,
        mean_intensity: voxels && this.bright ? sum / voxels : null,
        first_slice: first < 0 ? null : first,
        last_slice: first < 0 ? null : slices.findLastIndex((count) => count > 0),
        touches_border: border > 0,
        mean_uncertainty: null, // of other voxels
      };
    });
  }

  #of(frame) {
    let classes = this.#frames.get(frame);
    if (classes) return classes;
    this.#frames.set(frame, (classes = new Map()));
    const { img } = this.viewer.label;
    const size = this.nx * this.ny * this.nz;
    for (let index = frame * size; index < (frame + 1) * size; index++) {
      if (img[index]) this.#add(classes, img[index], index, 1);
    }
    return classes;
  }

  #empty() {
    return { voxels: 0, sum: 0, slices: new Int32Array([this.nx, this.ny, this.nz][this.axis]), border: 0 };
  }

  #add(classes, value, index, sign) {
    let one = classes.get(value);
    if (!one) classes.set(value, (one = this.#empty()));
    const { nx, ny, nz, axis, viewer } = this;
    const voxel = [index % nx, Math.floor(index / nx) % ny, Math.floor(index / (nx * ny)) % nz];
    const last = [nx - 1, ny - 1, nz - 1];
    one.voxels += sign;
    one.slices[voxel[axis]] += sign;
    if (voxel.some((at, along) => along !== axis && (at === 0 || at === last[along]))) one.border += sign;
    if (this.bright) {
      const { img, hdr } = viewer.image;
      one.sum += sign * (img[index] * (hdr.scl_slope || 1) + hdr.scl_inter);
    }
  }
}
