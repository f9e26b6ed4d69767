// What was found: the table of structures, the heart's measures, and files to take away.

import { setFrame } from "./cine.js";
import { classes, colorTable, forgetStyles, hiddenClasses, setStyle, styleOf } from "./classes.js";
import { $, element, setText } from "./dom.js";
import { page } from "./state.js";
import { drawTake } from "./take.js";
import { drawVersions, shownPath, shownResult } from "./versions.js";

const DOWNLOADS = {
  "segmentation.nii.gz": ["Segmentation", "NIfTI"],
  "segmentation.dcm": ["Segmentation", "DICOM SEG"],
  "uncertainty.nii.gz": ["Uncertainty", "NIfTI"],
  "statistics.csv": ["Measurements", "CSV"],
  "cardiac.csv": ["Heart", "CSV"],
};
const HEART = [
  ["ejection fraction", "%", "ef_percent"],
  ["end-diastolic volume", "ml", "edv_ml"],
  ["end-systolic volume", "ml", "esv_ml"],
  ["stroke volume", "ml", "sv_ml"],
];

export function drawResult() {
  const { image } = page.chosen.job;
  const result = shownResult();
  drawVersions();
  const measured = result.structures.every(({ volume_ml }) => volume_ml !== null);
  $("size-unit").textContent = measured ? "ml" : image.shape[2] > 1 ? "voxels" : "pixels";
  $("structures").tBodies[0].replaceChildren(...classes().map((_, i) => structureRow(i + 1)));
  $("downloads").replaceChildren(...result.files.map((file) => {
    const [what, kind] = DOWNLOADS[file];
    return element("a", { href: `${shownPath()}/${file}`, download: "" }, what, element("small", { textContent: kind }));
  }));
  drawTake(page.chosen.job);
  $("misfits").hidden = !result.misfits.length;
  $("misfits").lastElementChild.replaceChildren(...result.misfits.map((misfit) => element("li", { textContent: `${misfit}.` })));
  $("notes").replaceChildren(...result.notes.map((note) => element("li", { textContent: note })));
  $("reset").onclick = () => (forgetStyles(), drawResult(), page.viewer.changed());
  drawHeart(result.cardiac);
  drawNumbers();
  document.body.classList.add("done");
}

function structureRow(index) {
  const { name, color } = styleOf(index);
  const shown = element("input", { type: "checkbox", checked: !hiddenClasses.has(index) });
  if (index < 10) shown.title = `Key ${index}`;
  shown.onchange = () => toggleClass(index);
  const colour = element("input", { type: "color", value: color });
  colour.oninput = () => setStyle(index, { color: colour.value });
  const text = element("input", { type: "text", value: name, spellcheck: false, size: Math.max(name.length, 6) });
  const call = (name) => {
    text.value = text.title = name; // it may be longer than its column
    for (const [input, what] of [[shown, "show"], [colour, "colour of"], [text, "name of"]]) {
      input.setAttribute("aria-label", `${what} ${name}`);
    }
  };
  call(name);
  text.onchange = () => {
    setStyle(index, { name: text.value.trim() || classes()[index - 1].name });
    call(styleOf(index).name);
    page.viewer.changed();
  };
  const box = element("label", { className: "box" }, shown);
  const head = element("th", { scope: "row" }, element("div", { className: "structure" }, box, colour, text));
  const row = element("tr", {}, head, ...[0, 1, 2, 3].map(() => element("td")));
  row.dataset.index = index;
  return row;
}

/** The table's numbers, of the frame that is shown. */
export function drawNumbers() {
  const structures = page.draft ?? shownResult()?.structures;
  if (!structures) return;
  let cut = false;
  for (const row of $("structures").tBodies[0].rows) {
    const index = Number(row.dataset.index);
    const one = structures.find((it) => it.frame === page.viewer.frame && it.class_index === index);
    if (!one) continue;
    const size = one.volume_ml === null ? one.voxels.toLocaleString("en") : one.volume_ml.toFixed(one.volume_ml < 100 ? 1 : 0);
    const mean = one.mean_intensity === null ? "–" : String(Number(one.mean_intensity.toPrecision(3)));
    const slices = one.first_slice === null ? "–" : `${one.first_slice + 1}–${one.last_slice + 1}`;
    const doubt = one.mean_uncertainty?.toFixed(2) ?? "–";
    [size + (one.touches_border ? "*" : ""), mean, slices, doubt].forEach((cell, i) => setText(row.cells[i + 1], cell));
    cut ||= one.touches_border;
  }
  $("border-note").hidden = !cut;
}

function drawHeart(cardiac) {
  $("heart").hidden = !cardiac;
  if (!cardiac) return;
  const cell = (value) => element("td", { textContent: value === null ? "–" : value.toFixed(0) });
  const rows = HEART.map(([what, unit, key]) => {
    const numbers = ["lv", "rv"].map((side) => cell(cardiac[`${side}_${key}`]));
    return element("tr", {}, element("th", { scope: "row", textContent: `${what}, ${unit}` }), ...numbers);
  });
  const mass = element("th", { scope: "row", textContent: "myocardial mass, g" });
  rows.push(element("tr", {}, mass, cell(cardiac.myocardial_mass_g), element("td")));
  $("heart").querySelector("tbody").replaceChildren(...rows);
  $("phases").replaceChildren(...["ed", "es"].map((phase) => {
    const frame = Number(cardiac[phase].split(" ")[1]);
    return element("button", {
      textContent: `${phase.toUpperCase()}: frame ${frame + 1}`,
      title: phase === "ed" ? "Show end-diastole" : "Show end-systole",
      onclick: () => setFrame(frame),
    });
  }));
  $("heart-notes").replaceChildren(...cardiac.notes.map((note) => element("li", { textContent: note })));
}

export function toggleClass(index) {
  if (!page.viewer.label || index > classes().length) return;
  if (!hiddenClasses.delete(index)) hiddenClasses.add(index);
  const row = $("structures").querySelector(`[data-index="${index}"]`);
  row.querySelector("[type=checkbox]").checked = !hiddenClasses.has(index);
  page.viewer.setColors(colorTable());
}
