// The volume that is shown: its way into the viewer, and the controls that follow the viewer.

import { stop } from "./cine.js";
import { colorTable, hiddenClasses, styleOf } from "./classes.js";
import { $, cover, element } from "./dom.js";
import { drawNumbers, drawResult } from "./result.js";
import { drawEdit, leave, stopEditing } from "./edit.js";
import { drawOverlay } from "./overlay.js";
import { page } from "./state.js";
import { showUncertainty } from "./uncertainty.js";
import { shownPath } from "./versions.js";
import { load } from "./viewer.js";

export const NO_GRAPHICS =
  "This browser has no WebGL 2, which the viewer needs. Results can be downloaded all the same.";

const { viewer } = page;
let isLookedAt = false; // the image, with a result
let shown = 0; // counts what has been asked to be shown, so that a late answer is dropped

export function choose(entry) {
  if (entry !== page.chosen && !leave()) return;
  const before = page.chosen;
  page.chosen = entry;
  for (const one of [before, entry]) if (one) one.draw();
  show();
}

export async function show() {
  const turn = ++shown;
  const { job, version } = page.chosen ?? {};
  const image = job?.image;
  const done = Boolean(job?.result);
  stop();
  const key = image && `${job.id} ${job.volume} ${image.plane}`;
  const labelKey = `${key} ${version}`;
  if (viewer.key !== key) { // never a volume under another one's name
    viewer.clear();
    viewer.key = viewer.labelOf = null;
    isLookedAt = false;
    stopEditing();
  } else if (viewer.labelOf && viewer.labelOf !== labelKey) { // segmented again: plane, slice and zoom stay
    viewer.clearLabel();
    viewer.labelOf = null;
    stopEditing();
    drawControls(image);
  }
  document.body.classList.toggle("imaged", Boolean(viewer.key));
  document.body.classList.toggle("done", done && Boolean(viewer.labelOf));
  if (!image) return cover(idleWords());
  try {
    if (!viewer.key) {
      cover("Loading the volume");
      const volume = await load(`/api/jobs/${job.id}/image.nii.gz`);
      if (turn !== shown) return;
      viewer.showImage(volume, image);
      viewer.key = key;
      document.body.classList.add("imaged");
      drawControls(image);
    }
    if (done && !viewer.labelOf) {
      page.version = job.edits.length; // the newest
      const volume = await load(`${shownPath()}/label.nii.gz`);
      if (turn !== shown) return;
      hiddenClasses.clear();
      viewer.showLabel(volume, colorTable());
      viewer.labelOf = labelKey;
      drawResult();
      drawEdit();
      await showUncertainty();
      if (turn !== shown) return;
      drawOverlay();
      const { focus } = job.result;
      if (focus && !isLookedAt) viewer.lookAt(focus.map((index, axis) => Math.floor(index / image.step[axis])));
      isLookedAt = true;
    }
    cover("");
  } catch (error) {
    cover(viewer.marks ? `The volume cannot be shown: ${error.message ?? error}` : NO_GRAPHICS);
    if (done) drawResult(); // its numbers and files are there all the same
  }
}

function idleWords() {
  const { chosen } = page;
  if (!chosen || chosen.error || chosen.job?.state === "failed") return "Nothing to show";
  return chosen.choosing ? "Choose a volume from the list" : "Reading the volume";
}

function drawControls({ plane, oriented, frames, shape, windows }) {
  const flat = shape.filter((size) => size > 1).length < 3;
  for (const button of document.querySelectorAll("[data-plane]")) {
    button.disabled = flat && button.dataset.plane !== plane;
  }
  $("convention").disabled = !oriented;
  if (!oriented) viewer.setRadiological(true); // as pictures are written for
  $("cine").hidden = frames < 2;
  $("frame").max = frames;
  viewer.setFirstWindow(windows[0]);
  $("window").hidden = !windows.length;
  const options = windows.map(({ name }, i) => element("option", { value: i, textContent: name }));
  $("preset").replaceChildren(...options, element("option", { value: "", textContent: "own", hidden: true }));
  $("window-low").step = $("window-high").step = isCoarse() ? 1 : "any";
  describe();
}

const isCoarse = () => viewer.window[1] - viewer.window[0] > 20; // then whole numbers are fine enough

/** Everything that follows the crosshair, the frame, the zoom and the window. */
export function describe() {
  const image = page.chosen?.job?.image;
  if (!viewer.image || !viewer.key || !image) return;
  for (const button of document.querySelectorAll("[data-plane]")) {
    button.setAttribute("aria-pressed", button.dataset.plane === viewer.plane);
  }
  const convention = viewer.radiological ? "Radiological" : "Neurological";
  $("convention").textContent = image.oriented ? convention : "As stored";
  const [low, high] = viewer.window;
  const short = (value) => (isCoarse() ? Math.round(value) : Number(value.toPrecision(3)));
  if (document.activeElement !== $("window-low")) $("window-low").value = short(low);
  if (document.activeElement !== $("window-high")) $("window-high").value = short(high);
  const preset = image.windows.findIndex((one) => one.low === low && one.high === high);
  $("preset").value = preset < 0 ? "" : preset;
  $("fit").textContent = `${Math.round(100 * viewer.zoom.factor)} %`;
  $("fit").setAttribute("aria-label", `${$("fit").textContent}, fit to window`); // begins with what is to be read
  $("slice").max = viewer.slices;
  $("slice").value = viewer.slice + 1;
  $("slice").disabled = viewer.slices < 2;
  $("slice-text").textContent = `Slice ${viewer.slice + 1} / ${viewer.slices}`;
  $("frame").value = viewer.frame + 1;
  $("frame-text").textContent = `Frame ${viewer.frame + 1} / ${viewer.frames}`;
  $("readout").textContent = readout(image);
  drawNumbers();
}

/** What lies under the crosshair. */
function readout({ step, oriented }) {
  const said = [`voxel ${viewer.voxel.map((index, axis) => index * step[axis] + 1).join(", ")}`];
  if (oriented) {
    const where = ["LR", "PA", "IS"].map((names, axis) => {
      const distance = Number(viewer.mm[axis].toFixed(1));
      return `${names[Number(distance >= 0)]} ${Math.abs(distance).toFixed(1)}`;
    });
    said.push(`${where.join(" ")} mm`.replaceAll(" ", "\u00a0"));
  }
  said.push(`value ${viewer.value.map((value) => Number(value.toPrecision(5))).join(", ")}`);
  if (viewer.label) said.push(viewer.labelValue ? styleOf(viewer.labelValue).name : "background");
  if (viewer.doubt) said.push(`unsure ${(viewer.doubtValue / 100).toFixed(2)}`);
  if (viewer.ruler.text) said.push(`distance ${viewer.ruler.text}`);
  return said.join("  ·  ");
}
