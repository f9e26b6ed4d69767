// Where structures end in a slice, by marching squares: lines between the centres of voxels of different classes.

// The sides that a line crosses, by which of the corners (lower left 1, lower right 2, upper right 4, upper left 8) are
// inside; bottom 0, right 1, top 2, left 3.
const LINES = [
  [], [[3, 0]], [[0, 1]], [[3, 1]], [[1, 2]], [[3, 0], [1, 2]], [[0, 2]], [[3, 2]],
  [[2, 3]], [[0, 2]], [[0, 1], [2, 3]], [[1, 2]], [[1, 3]], [[0, 1]], [[0, 3]], [],
];
const SIDES = [[0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5]];

/** Class -> [x, y, x, y, ...], two points a line, in voxels along the slice's axes. */
export function outlines(viewer, label, { axes, slice }) {
  const size = label.dimsRAS;
  const strides = [1, viewer.shape[0], viewer.shape[0] * viewer.shape[1]];
  let start = viewer.frame * viewer.shape[0] * viewer.shape[1] * viewer.shape[2];
  const [right, up, across] = axes.map((along) => {
    const { axis, flipped } = viewer.stored(along);
    if (flipped) start += strides[axis] * (size[along + 1] - 1);
    return flipped ? -strides[axis] : strides[axis];
  });
  start += slice * across;
  const [width, height] = [size[axes[0] + 1], size[axes[1] + 1]];
  const { img } = label;
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : img[start + x * right + y * up]);

  const lines = new Map();
  for (let y = -1; y < height; y++) {
    let [lower, upper] = [0, 0];
    for (let x = -1; x < width; x++) {
      const corners = [lower, at(x + 1, y), at(x + 1, y + 1), upper];
      [, lower, upper] = corners;
      if (corners[0] === corners[1] && corners[1] === corners[2] && corners[2] === corners[3]) continue;
      for (const value of new Set(corners)) {
        if (!value) continue;
        const inside = corners.reduce((sum, corner, bit) => sum + (corner === value) * 2 ** bit, 0);
        if (!lines.has(value)) lines.set(value, []);
        for (const [from, to] of LINES[inside]) {
          lines.get(value).push(x + SIDES[from][0], y + SIDES[from][1], x + SIDES[to][0], y + SIDES[to][1]);
        }
      }
    }
  }
  return lines;
}
