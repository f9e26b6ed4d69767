// Where the three planes and the structures in 3D stand, so that a thin stack too has room. Lengths are shares of the
// stage, as NiiVue takes them.

const { SLICE_TYPE } = globalThis.niivue;
const SPLITS = [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7];
const WEIGHTS = [2.5, 1, 1, 1]; // the first plane is worth more room
const GAP_PX = 2;

/**
 * @param stage [width, height] in pixels
 * @param mm the volume's [right, anterior, superior] extent
 * @param first the plane that stands first: NiiVue's slice type
 */
export function layout(stage, [right, anterior, superior], first) {
  const sizes = {
    [SLICE_TYPE.AXIAL]: [right, anterior],
    [SLICE_TYPE.CORONAL]: [right, superior],
    [SLICE_TYPE.SAGITTAL]: [anterior, superior],
    [SLICE_TYPE.RENDER]: [1, 1],
  };
  const others = [SLICE_TYPE.AXIAL, SLICE_TYPE.CORONAL, SLICE_TYPE.SAGITTAL].filter((type) => type !== first);
  const types = [first, ...others, SLICE_TYPE.RENDER];
  let [best, most] = [null, -Infinity];
  for (const cells of candidates(stage, others.map((type) => sizes[type]))) {
    const sum = cells.reduce((sum, cell, i) => sum + WEIGHTS[i] * Math.log(fitted(sizes[types[i]], cell, stage)), 0);
    if (sum > most) [best, most] = [cells, sum];
  }
  const gap = stage.map((length) => GAP_PX / length);
  return types.map((sliceType, i) => {
    const [x, y, width, height] = best[i];
    return { sliceType, position: [x + gap[0], y + gap[1], width - 2 * gap[0], height - 2 * gap[1]] };
  });
}

/** Four quarters of any proportion; or the first plane beside the others, one below the other. */
function* candidates([stageWidth, stageHeight], others) {
  for (const x of SPLITS) {
    for (const y of SPLITS) yield [[0, 0, x, y], [x, 0, 1 - x, y], [0, y, x, 1 - y], [x, y, 1 - x, 1 - y]];
    const [one, two] = others.map(([width, height]) => Math.min(1 / 3, ((1 - x) * stageWidth * height) / width / stageHeight));
    yield [[0, 0, x, 1], [x, 0, 1 - x, one], [x, one, 1 - x, two], [x, one + two, 1 - x, 1 - one - two]];
  }
}

/** The area that an image of this shape takes in a cell. */
function fitted([width, height], [, , cellWidth, cellHeight], [stageWidth, stageHeight]) {
  const scale = Math.min((cellWidth * stageWidth) / width, (cellHeight * stageHeight) / height);
  return scale * width * scale * height;
}
