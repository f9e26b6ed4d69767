// Editing of a segmentation: the bar of tools, its keys, and the way to the server. `pen.js` changes the voxels.

import { classes, hiddenClasses, styleOf } from "./classes.js";
import { $, api, detail, element } from "./dom.js";
import { Pen } from "./pen.js";
import { drawNumbers, toggleClass } from "./result.js";
import { page } from "./state.js";
import { Tally } from "./tally.js";
import { shownPath, shownResult, showVersion } from "./versions.js";

const { viewer } = page;
const pen = new Pen(viewer);
const PLANE_AXES = { axial: [0, 1, 2], coronal: [0, 2, 1], sagittal: [1, 2, 0] };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const VOXEL_OFFSET_AT = 108; // byte of a NIfTI-1 header that says where the voxels begin
const HINT = "Left button or one finger draws. Two fingers, or ctrl and the wheel, zoom.";
const COLLECTED = "What you save is collected on the server for training, with your name.";
const HEART_LATER = "The heart's measures follow when you save.";
let tally = null;
let saving = false;

const editing = () => Boolean(viewer.pen);
const dirty = () => editing() && pen.touched;

/** Why the result that is shown cannot be edited; "" if it can. */
function obstacle() {
  if (!viewer.label) return "There is no segmentation to edit.";
  if (page.chosen.job.image.step.some((step) => step > 1)) {
    return "This volume is too large for the browser's graphics and is shown thinned, so it cannot be edited here.";
  }
  return globalThis.CompressionStream ? "" : "This browser is too old to save an edit.";
}

/** The button, for the result that is shown. */
export function drawEdit() {
  const reason = obstacle();
  $("edit").disabled = Boolean(reason);
  $("edit").title = reason || "Correct the segmentation (e)";
}

function startEditing() {
  if (obstacle()) return;
  if (!$("overlay").checked) $("overlay").click();
  viewer.ruler.toggle(false);
  pen.open();
  tally = new Tally(viewer, shownResult().structures, page.chosen.job.image);
  $("edit-class").replaceChildren(...classes().map((_, i) =>
    element("option", { value: i + 1, textContent: styleOf(i + 1).name })));
  if (pen.value > classes().length) pen.value = 1;
  $("edit-by").value = localStorage.getItem("mamba-unet editor") ?? "";
  viewer.pen = pen;
  say("");
  draw();
  $("view").scrollIntoView({ block: "nearest" });
}

export function stopEditing() {
  viewer.pen = tally = page.draft = null;
  pen.forget();
  $("pen").hidden = true;
  draw();
}

/** Whether what is unsaved may go: asks, where there is something. */
export function leave() {
  if (dirty() && !confirm("The changes that are not saved will be lost. Go on?")) return false;
  if (editing()) discard();
  return true;
}

/** Whether a volume may be segmented again, which takes its edits away. */
export function mayReplace(entry) {
  const count = entry.job?.edits?.length ?? 0;
  if (count && !confirm("Segmenting again removes the saved edits of this volume. Go on?")) return false;
  return entry !== page.chosen || leave();
}

/** Whether a volume may be removed from the list. */
export const mayRemove = (entry) => entry !== page.chosen || leave();

function discard() {
  pen.revert();
  stopEditing();
  drawNumbers();
}

function say(text, problem = false) {
  $("edit-note").textContent = text || (page.about?.collects ? COLLECTED : HINT);
  $("edit-note").classList.toggle("problem", problem);
}

function draw() {
  $("edit-bar").hidden = !editing();
  document.body.classList.toggle("editing", editing());
  $("edit").setAttribute("aria-pressed", editing());
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", button.dataset.tool === pen.tool);
  }
  $("edit-size").value = pen.size;
  $("edit-size").disabled = pen.tool === "fill";
  $("edit-size-text").textContent = pen.size;
  $("undo").disabled = !pen.canUndo || saving;
  $("redo").disabled = !pen.canRedo || saving;
  $("edit-save").disabled = saving;
  $("edit-discard").textContent = pen.touched ? "Discard" : "Close";
  if (editing()) {
    $("edit-class").value = pen.value;
    $("edit-color").style.background = styleOf(pen.value).color;
  }
}

function setTool(tool) {
  pen.tool = tool;
  say("");
  draw();
}

function setSize(size) {
  pen.size = Math.min(Math.max(size, 1), Number($("edit-size").max));
  draw();
}

function setValue(value) {
  if (value > classes().length) return;
  pen.value = value;
  if (hiddenClasses.has(value)) toggleClass(value);
  draw();
}

async function save() {
  if (saving || !editing()) return;
  saving = true;
  draw();
  say("Saving");
  const by = $("edit-by").value.trim();
  localStorage.setItem("mamba-unet editor", by);
  const entry = page.chosen;
  const { id, model, volume } = entry.job;
  try {
    const query = new URLSearchParams({ model, volume, by });
    const body = await packed(`${shownPath()}/label.nii.gz`, viewer.label.img);
    const answer = await fetch(`/api/jobs/${id}/edits?${query}`, { method: "PUT", body }).catch(() => {
      throw new Error("The server cannot be reached. Your changes are still here.");
    });
    if (!answer.ok) throw new Error(detail(await answer.text()));
    const edit = await answer.json();
    entry.job = await api("GET", `jobs/${id}`);
    saving = false;
    if (entry !== page.chosen) return;
    stopEditing();
    await showVersion(edit.number);
  } catch (error) {
    say(error.message, true);
  } finally {
    saving = false;
    draw();
  }
}

/** The label's file with other voxels: its header, and so its place and the order of its voxels, stays as it is. */
async function packed(url, voxels) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error("The server no longer has this volume; it cannot take the edit.");
  const stream = answer.body.pipeThrough(new DecompressionStream("gzip"));
  const file = new Uint8Array(await new Response(stream).arrayBuffer());
  const start = new DataView(file.buffer).getFloat32(VOXEL_OFFSET_AT, true);
  if (file.length - start !== voxels.length || voxels.BYTES_PER_ELEMENT !== 1) {
    throw new Error("The label is not stored as expected and cannot be saved.");
  }
  file.set(voxels, start);
  return new Response(new Blob([file]).stream().pipeThrough(new CompressionStream("gzip"))).blob();
}

// ---- keys, buttons, and the circle that the brush covers ----

const KEYS = {
  b: () => setTool("brush"),
  v: () => setTool("eraser"),
  f: () => setTool("fill"),
  "[": () => setSize(pen.size - 1),
  "]": () => setSize(pen.size + 1),
  Enter: () => pen.use(PLANE_AXES[plane()]),
};
const WITH_CTRL = { z: () => pen.undo(), y: () => pen.redo(), Z: () => pen.redo(), s: save };

const plane = () => (viewer.plane === "all" ? viewer.acquired : viewer.plane);

function move([right, up]) {
  const axes = PLANE_AXES[plane()];
  const steps = [[axes[0], viewer.radiological ? -right : right], [axes[1], up]];
  for (const [along, by] of steps) if (by) viewer.step(along, viewer.stored(along).flipped ? -by : by);
}

function action(event) {
  if (event.ctrlKey || event.metaKey) return editing() && WITH_CTRL[event.key];
  if (event.altKey) return null;
  if (event.key === "e") return $("edit").disabled || !document.body.classList.contains("done") ? null : toggle;
  if (!editing()) return null;
  if (event.shiftKey && ARROWS[event.key]) return () => move(ARROWS[event.key]);
  if (event.key >= "1" && event.key <= "9") return () => setValue(Number(event.key));
  if (event.key === "Enter" && event.target.matches("button, select, a")) return null;
  return KEYS[event.key];
}

function onKey(event) {
  const typing = event.target.matches("input:is([type=text], [type=number]), select");
  if (document.querySelector("dialog[open]") || !viewer.key || (typing && !(event.key === "s" && event.ctrlKey))) return;
  const act = action(event);
  if (!act) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  act();
}

function toggle() {
  if (!editing()) startEditing();
  else leave();
}

function drawCircle(event) {
  const { left, top } = $("canvas").getBoundingClientRect();
  const place = [event.clientX - left, event.clientY - top];
  const there = editing() && pen.tool !== "fill" && event.pointerType !== "touch" ? pen.at(place) : null;
  $("pen").hidden = !there;
  if (!there) return;
  const size = `${2 * pen.radius(there)}px`;
  Object.assign($("pen").style, { left: `${place[0]}px`, top: `${place[1]}px`, width: size, height: size });
}

export function listenToEdits() {
  document.addEventListener("keydown", onKey, { capture: true });
  window.addEventListener("beforeunload", (event) => dirty() && event.preventDefault());
  pen.counted = (index, before, after) => tally?.change(index, before, after);
  pen.refused = (text) => say(text, true);
  pen.changed = () => {
    page.draft = tally?.measured() ?? null;
    say(shownResult().cardiac ? HEART_LATER : "");
    draw();
    viewer.changed();
  };
  $("edit").onclick = toggle;
  for (const button of document.querySelectorAll("[data-tool]")) button.onclick = () => setTool(button.dataset.tool);
  $("edit-class").onchange = () => setValue(Number($("edit-class").value));
  $("edit-size").oninput = () => setSize($("edit-size").valueAsNumber);
  $("edit-keep").onchange = () => (pen.keep = $("edit-keep").checked);
  $("undo").onclick = () => pen.undo();
  $("redo").onclick = () => pen.redo();
  $("edit-save").onclick = save;
  $("edit-discard").onclick = leave;
  $("canvas").addEventListener("pointermove", drawCircle);
  $("canvas").addEventListener("pointerleave", () => ($("pen").hidden = true));
}
