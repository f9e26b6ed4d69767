// The structures in 3D, the fourth of "All": without the image around them, and as large as there is room.

const SHADING = 0.6;
const FRONT = [180, 10]; // azimuth and elevation, in degrees, to begin with

export class Render {
  #box = null; // the structures' [least, largest] voxels of X Y Z as stored, over all frames
  #structures = null; // their texture, while the slices show something in their place

  constructor(viewer) {
    this.viewer = viewer;
  }

  async attach() {
    const { nv } = this.viewer;
    await nv.setVolumeRenderIllumination(SHADING);
    const draw = nv.draw3D.bind(nv);
    nv.draw3D = (...where) => {
      const { gl, renderShader } = nv;
      gl.useProgram(renderShader.program);
      gl.uniform1f(renderShader.uniforms.backOpacity, 0); // of the image
      const apart = this.viewer.doubt && this.#structures;
      if (apart) this.#bindOverlay(apart);
      draw(...where);
      if (apart) this.#bindOverlay(nv.overlayTexture);
    };
    const refresh = nv.refreshLayers.bind(nv);
    nv.refreshLayers = (volume, layer) => {
      if (layer === 1 && this.viewer.doubt) {
        const { opacity } = volume;
        volume.opacity = 1;
        refresh(volume, layer);
        this.#structures = nv.overlayTexture; // NiiVue makes another one each time
        volume.opacity = opacity;
      }
      refresh(volume, layer);
    };
    const pivot = nv.setPivot3D.bind(nv);
    nv.setPivot3D = () => {
      pivot();
      if (this.#box) this.#lookAtBox();
    };
  }

  /** Look at another label from the front. */
  show({ img }) {
    const { viewer } = this;
    const [nx, ny, nz] = viewer.shape;
    const [least, largest] = [[nx, ny, nz], [-1, -1, -1]];
    for (let i = 0, z = 0, y = 0; i < img.length; i += nx) { // row by row
      const row = img.subarray(i, i + nx);
      const from = row.findIndex(Boolean);
      if (from >= 0) {
        const to = row.findLastIndex(Boolean);
        [from, y, z].forEach((at, axis) => (least[axis] = Math.min(least[axis], at)));
        [to, y, z].forEach((at, axis) => (largest[axis] = Math.max(largest[axis], at)));
      }
      if (++y === ny) [y, z] = [0, (z + 1) % nz];
    }
    this.#box = largest[0] < 0 ? null : [least, largest];
    [viewer.nv.scene.renderAzimuth, viewer.nv.scene.renderElevation] = FRONT;
  }

  clear() {
    this.#box = this.#structures = null;
  }

  #bindOverlay(texture) {
    const { gl } = this.viewer.nv;
    gl.activeTexture(gl.TEXTURE2); // NiiVue's of overlays
    gl.bindTexture(gl.TEXTURE_3D, texture);
  }

  #lookAtBox() {
    const { viewer } = this;
    const [from, to] = this.#box.map((voxel) => viewer.nv.frac2mm(viewer.fraction(voxel)));
    const middle = [0, 1, 2].map((axis) => (from[axis] + to[axis]) / 2);
    viewer.nv.pivot3D = middle;
    viewer.nv.furthestFromPivot = Math.hypot(...[0, 1, 2].map((axis) => (to[axis] - from[axis]) / 2 || 1)) || 1;
  }
}
