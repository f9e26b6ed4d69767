// Buttons, sliders, fields and keys of the viewer.

import { play, setFrame } from "./cine.js";
import { $ } from "./dom.js";
import { toggleClass } from "./result.js";
import { page } from "./state.js";

const { viewer } = page;
const ZOOM = 1.25; // of a key or a button

const step = (slices) => viewer.setSlice(viewer.slice + slices);
const setPlane = (plane) => {
  if (!document.querySelector(`[data-plane="${plane}"]`).disabled) viewer.setPlane(plane);
};
const turnRound = () => {
  if (!$("convention").disabled) viewer.setRadiological(!viewer.radiological);
};

const KEYS = {
  ArrowUp: () => step(-1),
  ArrowDown: () => step(1),
  PageUp: () => step(-5),
  PageDown: () => step(5),
  Home: () => viewer.setSlice(0),
  End: () => viewer.setSlice(viewer.slices - 1),
  ArrowLeft: () => setFrame(viewer.frame - 1),
  ArrowRight: () => setFrame(viewer.frame + 1),
  " ": play,
  a: () => setPlane("axial"),
  c: () => setPlane("coronal"),
  s: () => setPlane("sagittal"),
  m: () => setPlane("all"),
  r: turnRound,
  d: () => viewer.ruler.toggle(),
  x: () => viewer.setCrosshair(!viewer.crosshair),
  Escape: () => viewer.ruler.toggle(false),
  o: () => $("overlay").click(),
  "+": () => viewer.zoom.by(ZOOM),
  "=": () => viewer.zoom.by(ZOOM),
  "-": () => viewer.zoom.by(1 / ZOOM),
  0: () => viewer.zoom.fit(),
};

function onKey(event) {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "?") return $("help").showModal();
  if (target.matches("input:is([type=text], [type=number]), select") || !viewer.key) return;
  if (target.matches("[type=range]") && /^(Arrow|Page|Home|End)/.test(event.key)) return; // a slider's own
  if (event.key === " " && target.matches("button, input, a")) return;
  const act = KEYS[event.key] ?? (event.key >= "1" && event.key <= "9" && (() => toggleClass(Number(event.key))));
  if (!act) return;
  event.preventDefault();
  act();
}

export function listen() {
  document.addEventListener("keydown", onKey);
  for (const button of document.querySelectorAll("[data-plane]")) {
    button.onclick = () => setPlane(button.dataset.plane);
  }
  $("convention").onclick = turnRound;
  $("ruler").onclick = KEYS.d;
  $("zoom-in").onclick = KEYS["+"];
  $("zoom-out").onclick = KEYS["-"];
  $("fit").onclick = KEYS[0];
  $("slice").oninput = () => viewer.setSlice($("slice").value - 1);
  $("frame").oninput = () => setFrame($("frame").value - 1);
  $("play").onclick = play;
  for (const input of [$("window-low"), $("window-high")]) {
    input.onchange = () => viewer.setWindow($("window-low").valueAsNumber, $("window-high").valueAsNumber);
  }
  $("preset").onchange = () => {
    const { low, high } = page.chosen.job.image.windows[$("preset").value];
    viewer.setWindow(low, high);
  };
  $("help-open").onclick = () => $("help").showModal();
}
