// The page: scans of this tab, what the server says of each, and the one that is shown.

import { detail, droppedFiles, pickedFiles, sendFiles } from "./upload.js";
import { Viewer, load } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const MOVING = ["reading", "queued", "running"];
const POLL_MS = 400;
const FRAME_MS = 80;
const DOWNLOADS = {
  "segmentation.nii.gz": ["Segmentation", "NIfTI"],
  "segmentation.dcm": ["Segmentation", "DICOM SEG"],
  "statistics.csv": ["Measurements", "CSV"],
  "cardiac.csv": ["Heart", "CSV"],
};

const HEART = [
  ["ejection fraction", "%", "ef_percent"],
  ["end-diastolic volume", "ml", "edv_ml"],
  ["end-systolic volume", "ml", "esv_ml"],
  ["stroke volume", "ml", "sv_ml"],
];

const viewer = new Viewer(describe);
const entries = []; // the scans of this tab, newest first; see newEntry
let about;
let chosen = null; // the entry that is shown
let shown = 0; // counts what has been asked to be shown, so that a late answer is dropped
let playing = null;
const hiddenClasses = new Set();

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

async function api(method, path, body) {
  const options = body ? { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } } : {};
  const answer = await fetch(`/api/${path}`, { method, ...options }).catch(() => {
    throw new Error("The server cannot be reached.");
  });
  if (!answer.ok) throw Object.assign(new Error(detail(await answer.text())), { status: answer.status });
  return answer.status === 204 ? null : answer.json();
}

// ---- scans ----------------------------------------------------------------------------------------------------------

/** A scan of this tab: what the server says of it (`job`), and its row in the list. */
function newEntry(name) {
  const entry = { name, job: null, sent: 0, error: "", version: 0, abort: new AbortController() };
  const button = (text, act) => element("button", { textContent: text, onclick: act });
  entry.row = element("li");
  entry.title = element("button", { className: "name", onclick: () => choose(entry) });
  entry.status = element("p", { className: "status" });
  entry.count = element("p", { className: "status count" });
  entry.bar = element("progress", { max: 1 });
  entry.choices = element("ul", { className: "choices" });
  entry.cancel = button("Cancel", () => cancel(entry));
  entry.again = button("Segment again", () => start(entry, entry.job.scan));
  entry.other = button("Another scan of it", () => offerScans(entry));
  entry.remove = element("button", { className: "link", textContent: "✕", title: "Remove", onclick: () => remove(entry) });
  const head = element("div", { className: "row" }, entry.title, entry.remove);
  const buttons = element("div", { className: "buttons" }, entry.cancel, entry.again, entry.other);
  entry.row.append(head, element("div", { className: "row wrap" }, entry.status, entry.count), entry.bar, entry.choices, buttons);
  entries.unshift(entry);
  $("jobs").prepend(entry.row);
  document.body.classList.remove("empty");
  return entry;
}

async function open(files) {
  if (!files.length) return;
  const [first, ...below] = files[0].name.split("/");
  const entry = newEntry(below.length || files.length === 1 ? first : `${files.length} files`);
  choose(entry);
  try {
    const size = files.reduce((sum, { file }) => sum + file.size, 0);
    if (size > about.max_upload_bytes) {
      const mib = (bytes) => `${Math.ceil(bytes / 2 ** 20).toLocaleString("en")} MiB`;
      throw new Error(`${mib(size)} are more than the server takes, ${mib(about.max_upload_bytes)}.`);
    }
    entry.job = await api("POST", "jobs");
    const progress = (share) => ((entry.sent = share), drawEntry(entry));
    await sendFiles(`/api/jobs/${entry.job.id}/upload`, files, progress, entry.abort.signal);
    entry.sent = 1;
    remember();
  } catch (error) {
    forget(entry);
    return fail(entry, error.name === "AbortError" ? new Error("Cancelled.") : error);
  }
  await start(entry);
}

async function start(entry, scan = null) {
  const before = entry.job;
  entry.job = { ...before, state: "reading" }; // until the server answers, which it does when it has read it
  entry.error = "";
  entry.choosing = false;
  drawEntry(entry);
  try {
    const axis = $("slice-axis").value || null;
    entry.job = await api("POST", `jobs/${entry.job.id}/start`, { model: $("model").value, scan, slice_axis: axis });
    entry.version += 1;
    entry.choosing = entry.job.state === "choosing";
    drawEntry(entry);
    if (entry === chosen) show();
  } catch (error) {
    entry.job = before;
    return fail(entry, error);
  }
  follow(entry).catch((error) => fail(entry, error));
}

async function follow(entry) {
  while (MOVING.includes(entry.job.state)) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    try {
      entry.job = await api("GET", `jobs/${entry.job.id}`);
      entry.error = "";
    } catch (error) {
      if (error.status) throw error;
      entry.error = "The server cannot be reached; trying again.";
    }
    drawEntry(entry);
  }
  if (entry === chosen && entry.job.state === "done") show();
}

async function cancel(entry) {
  if (entry.sent < 1) return entry.abort.abort();
  try {
    entry.job = await api("POST", `jobs/${entry.job.id}/cancel`);
    drawEntry(entry);
  } catch (error) {
    fail(entry, error);
  }
}

function remove(entry) {
  entry.abort.abort();
  forget(entry);
  entries.splice(entries.indexOf(entry), 1);
  entry.row.remove();
  remember();
  document.body.classList.toggle("empty", !entries.length);
  if (entry === chosen) choose(entries[0] ?? null);
}

/** Have the server delete what it has of a scan. */
function forget(entry) {
  if (entry.job) api("DELETE", `jobs/${entry.job.id}`).catch(() => {}); // it may be gone already
  entry.job = null;
}

function fail(entry, error) {
  entry.error = error.message;
  if (error.status === 404) entry.job = null;
  drawEntry(entry);
  if (entry === chosen) show();
}

function offerScans(entry) {
  entry.choosing = !entry.choosing;
  drawEntry(entry);
}

function drawEntry(entry) {
  const { job } = entry;
  const state = job?.state ?? "failed";
  const moving = MOVING.includes(state);
  const uploading = !entry.error && (state === "uploading" || (!job && !entry.error));
  const name = job?.scans.length && !entry.choosing ? job.name : entry.name;
  if (entry.title.textContent !== name) { // long names break where their parts do
    entry.title.replaceChildren(...name.split(/(?<=[_.-])/).flatMap((part) => [part, element("wbr")]));
  }
  entry.remove.setAttribute("aria-label", `Remove ${name}`);
  entry.bar.setAttribute("aria-label", `progress of ${name}`);
  entry.row.classList.toggle("chosen", entry === chosen);
  entry.title.setAttribute("aria-current", entry === chosen);
  const problem = entry.error || (state === "failed" ? job?.error : "");
  entry.row.classList.toggle("problem", Boolean(problem));
  entry.status.role = problem ? "alert" : "status";
  setText(entry.status, problem || words(entry));
  const [done, all] = job?.slices ?? [0, 0];
  const count = state === "running" && all && !problem ? `${done} / ${all} slices` : "";
  setText(entry.count, uploading ? `${Math.floor(100 * entry.sent)} %` : count);
  entry.bar.hidden = !moving && !uploading;
  const share = uploading ? entry.sent : done / all;
  if (uploading ? share < 1 : state === "running" && all) entry.bar.value = share;
  else entry.bar.removeAttribute("value"); // it goes on, one cannot say how far
  entry.cancel.hidden = !moving && !(uploading && entry.sent < 1);
  entry.again.hidden = moving || uploading || entry.choosing || !job?.image;
  entry.other.hidden = moving || (job?.scans.length ?? 0) < 2 || state === "choosing";
  entry.remove.hidden = moving || uploading;
  entry.choices.hidden = !entry.choosing;
  if (entry.choosing && !entry.choices.childElementCount) {
    entry.choices.append(...job.scans.map((name, scan) =>
      element("li", {}, element("button", { textContent: name, onclick: () => (choose(entry), start(entry, scan)) })),
    ));
  }
}

function words({ job, sent, choosing }) {
  if (!job || job.state === "uploading") return sent < 1 ? "Uploading" : "Reading";
  const [done, all] = job.slices;
  if (choosing) return `It holds ${job.scans.length} scans. Which one?`;
  return {
    reading: "Reading",
    queued: job.ahead ? `Waiting; ${job.ahead} before it` : "Waiting",
    running: done < all || !all ? "Segmenting" : "Measuring",
    done: about.models.length > 1 ? `Done with ${job.model}` : "Done",
    cancelled: "Cancelled",
  }[job.state];
}

function setText(node, text) { // a screen reader speaks each change once
  if (node.textContent !== text) node.textContent = text;
}

/** Scans of this tab are found again after a reload, as long as the server has them. */
function remember() {
  const known = entries.filter(({ job }) => job).map(({ job }) => job.id);
  sessionStorage.setItem("mamba-unet", JSON.stringify(known.reverse()));
}

async function recall() {
  for (const id of JSON.parse(sessionStorage.getItem("mamba-unet") ?? "[]")) {
    try {
      const job = await api("GET", `jobs/${id}`);
      if (job.state === "uploading") continue; // the reload has cut it off; it expires
      const entry = Object.assign(newEntry(job.name), { job, sent: 1, choosing: job.state === "choosing" });
      choose(entry);
      follow(entry).catch((error) => fail(entry, error));
    } catch {
      // it has been removed
    }
  }
  remember();
}

// ---- the scan that is shown -----------------------------------------------------------------------------------------

function choose(entry) {
  const before = chosen;
  chosen = entry;
  for (const one of [before, entry]) if (one) drawEntry(one);
  show();
}

async function show() {
  const turn = ++shown;
  const { job, version } = chosen ?? {};
  const image = job?.image;
  const done = Boolean(job?.result);
  stop();
  const key = image && `${job.id} ${job.scan} ${version}`;
  if (viewer.key !== key) { // never a scan under another one's name
    viewer.clear();
    viewer.key = viewer.labelOf = null;
  }
  document.body.classList.toggle("imaged", Boolean(viewer.key));
  document.body.classList.toggle("done", done && Boolean(viewer.labelOf));
  if (!image) return cover(idleWords());
  const from = `/api/jobs/${job.id}`;
  try {
    if (!viewer.key) {
      cover("Loading the scan");
      const volume = await load(`${from}/image.nii.gz`);
      if (turn !== shown) return;
      viewer.showImage(volume, image);
      viewer.key = key;
      document.body.classList.add("imaged");
      drawControls(image);
    }
    if (done && !viewer.labelOf) {
      const volume = await load(`${from}/label.nii.gz`);
      if (turn !== shown) return;
      hiddenClasses.clear();
      viewer.showLabel(volume, colorTable());
      viewer.labelOf = key;
      drawResult();
      const { focus } = job.result;
      if (focus) viewer.lookAt(focus.map((index, axis) => Math.floor(index / image.step[axis])));
    }
    cover("");
  } catch (error) {
    cover(`The scan cannot be shown: ${error.message ?? error}`);
    if (done) drawResult(); // its numbers and files are there all the same
  }
}

function idleWords() {
  if (!chosen || chosen.error || chosen.job?.state === "failed") return "Nothing to show";
  return chosen.choosing ? "Choose a scan from the list" : "Reading the scan";
}

function cover(text) {
  $("cover").hidden = !text;
  $("cover").textContent = text;
}

function drawControls({ plane, oriented, frames, shape }) {
  const flat = shape.filter((size) => size > 1).length < 3;
  for (const button of document.querySelectorAll("[data-plane]")) {
    button.disabled = flat && button.dataset.plane !== plane;
  }
  $("convention").disabled = !oriented;
  if (!oriented) viewer.setRadiological(true); // as pictures are written for
  $("cine").hidden = frames < 2;
  $("frame").max = frames;
  $("window-low").step = $("window-high").step = isCoarse() ? 1 : "any";
  describe();
}

const isCoarse = () => viewer.window[1] - viewer.window[0] > 20; // then whole numbers are fine enough

/** Everything that follows the crosshair, the frame and the window. */
function describe() {
  if (!viewer.image || !viewer.key || !chosen.job?.image) return;
  for (const button of document.querySelectorAll("[data-plane]")) {
    button.setAttribute("aria-pressed", button.dataset.plane === viewer.plane);
  }
  const convention = viewer.radiological ? "Radiological" : "Neurological";
  $("convention").textContent = chosen.job.image.oriented ? convention : "As stored";
  const [low, high] = viewer.window.map((value) => (isCoarse() ? Math.round(value) : Number(value.toPrecision(3))));
  if (document.activeElement !== $("window-low")) $("window-low").value = low;
  if (document.activeElement !== $("window-high")) $("window-high").value = high;
  $("slice").max = viewer.slices;
  $("slice").value = viewer.slice + 1;
  $("slice").disabled = viewer.slices < 2;
  $("slice-text").textContent = `Slice ${viewer.slice + 1} / ${viewer.slices}`;
  $("frame").value = viewer.frame + 1;
  $("frame-text").textContent = `Frame ${viewer.frame + 1} / ${viewer.frames}`;
  const { values, mm } = viewer.location;
  const { step, oriented } = chosen.job.image;
  const said = [`voxel ${viewer.voxel.map((index, axis) => index * step[axis] + 1).join(", ")}`];
  if (oriented) {
    const where = ["LR", "PA", "IS"].map((names, axis) => {
      const distance = Number(mm[axis].toFixed(1));
      return `${names[Number(distance >= 0)]} ${Math.abs(distance).toFixed(1)}`;
    });
    said.push(`${where.join(" ")} mm`.replaceAll(" ", "\u00a0"));
  }
  said.push(`value ${Number(values[0].value.toPrecision(5))}`);
  if (values[1]) said.push(values[1].value ? styleOf(values[1].value).name : "background");
  $("readout").textContent = said.join("  ·  ");
  drawNumbers();
}

// ---- the result -----------------------------------------------------------------------------------------------------

const classes = () => about.models.find(({ name }) => name === chosen.job.model).classes;
const styles = () => JSON.parse(localStorage.getItem(`mamba-unet ${chosen.job.model}`) ?? "{}");
const styleOf = (index) => ({ ...classes()[index - 1], ...styles()[index] });
const opacity = () => ($("overlay").checked ? $("opacity").value / 100 : 0);

function setStyle(index, change) {
  const all = styles();
  all[index] = { ...all[index], ...change };
  localStorage.setItem(`mamba-unet ${chosen.job.model}`, JSON.stringify(all));
  viewer.setColors(colorTable());
}

/** NiiVue's table of label colours. */
function colorTable() {
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ["background"] };
  classes().forEach((_, i) => {
    const { color, name } = styleOf(i + 1);
    [..."RGB"].forEach((channel, c) => table[channel].push(parseInt(color.slice(1 + 2 * c, 3 + 2 * c), 16)));
    table.A.push(hiddenClasses.has(i + 1) ? 0 : 255);
    table.I.push(i + 1);
    table.labels.push(name);
  });
  return table;
}

function drawResult() {
  const { id, result } = chosen.job;
  const measured = result.structures.every(({ volume_ml }) => volume_ml !== null);
  $("size-unit").textContent = measured ? "ml" : chosen.job.image.shape[2] > 1 ? "voxels" : "pixels";
  $("structures").tBodies[0].replaceChildren(...classes().map((_, i) => structureRow(i + 1)));
  $("downloads").replaceChildren(...result.files.map((file) => {
    const [what, kind] = DOWNLOADS[file];
    return element("a", { href: `/api/jobs/${id}/${file}`, download: "" }, what, element("small", { textContent: kind }));
  }));
  $("notes").replaceChildren(...result.notes.map((note) => element("li", { textContent: note })));
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
    describe();
  };
  const head = element("th", { scope: "row" }, element("div", { className: "structure" }, shown, colour, text));
  const row = element("tr", {}, head, element("td"), element("td"), element("td"));
  row.dataset.index = index;
  return row;
}

/** The table's numbers, of the frame that is shown. */
function drawNumbers() {
  const structures = chosen?.job?.result?.structures;
  if (!structures) return;
  let cut = false;
  for (const row of $("structures").tBodies[0].rows) {
    const index = Number(row.dataset.index);
    const one = structures.find((it) => it.frame === viewer.frame && it.class_index === index);
    if (!one) continue;
    const size = one.volume_ml === null ? one.voxels.toLocaleString("en") : one.volume_ml.toFixed(one.volume_ml < 100 ? 1 : 0);
    const mean = one.mean_intensity === null ? "–" : String(Number(one.mean_intensity.toPrecision(3)));
    const slices = one.first_slice === null ? "–" : `${one.first_slice + 1}–${one.last_slice + 1}`;
    [size + (one.touches_border ? "*" : ""), mean, slices].forEach((cell, i) => setText(row.cells[i + 1], cell));
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
      onclick: () => (stop(), viewer.setFrame(frame)),
    });
  }));
  $("heart-notes").replaceChildren(...cardiac.notes.map((note) => element("li", { textContent: note })));
}

function toggleClass(index) {
  if (!viewer.label || index > classes().length) return;
  if (!hiddenClasses.delete(index)) hiddenClasses.add(index);
  const row = $("structures").querySelector(`[data-index="${index}"]`);
  row.querySelector("[type=checkbox]").checked = !hiddenClasses.has(index);
  viewer.setColors(colorTable());
}

function toggleOverlay() {
  $("overlay").checked = !$("overlay").checked;
  viewer.setOpacity(opacity());
}

function play() {
  if (playing) return stop();
  if (viewer.frames < 2) return;
  playing = setInterval(() => viewer.setFrame((viewer.frame + 1) % viewer.frames), FRAME_MS);
  $("play").textContent = "❚❚";
  $("play").setAttribute("aria-label", "Pause");
}

function stop() {
  clearInterval(playing);
  playing = null;
  $("play").textContent = "▶";
  $("play").setAttribute("aria-label", "Play");
}

// ---- controls and keys ----------------------------------------------------------------------------------------------

const step = (slices) => viewer.setSlice(viewer.slice + slices);
const setPlane = (plane) => {
  if (!document.querySelector(`[data-plane="${plane}"]`).disabled) viewer.setPlane(plane);
};
const turnRound = () => {
  if ($("convention").disabled) return;
  viewer.setRadiological(!viewer.radiological);
  describe();
};
const KEYS = {
  ArrowUp: () => step(-1),
  ArrowDown: () => step(1),
  PageUp: () => step(-5),
  PageDown: () => step(5),
  Home: () => viewer.setSlice(0),
  End: () => viewer.setSlice(viewer.slices - 1),
  ArrowLeft: () => (stop(), viewer.setFrame(viewer.frame - 1)),
  ArrowRight: () => (stop(), viewer.setFrame(viewer.frame + 1)),
  " ": play,
  a: () => setPlane("axial"),
  c: () => setPlane("coronal"),
  s: () => setPlane("sagittal"),
  m: () => setPlane("all"),
  r: turnRound,
  o: toggleOverlay,
};

function onKey(event) {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (event.key === "?") return $("help").showModal();
  if (target.matches("input:is([type=text], [type=number]), select") || !viewer.key) return;
  if (target.matches("[type=range]") && /^(Arrow|Page|Home|End)/.test(event.key)) return; // a slider's own
  if (event.key === " " && target.matches("button, input, a")) return;
  const act = KEYS[event.key] ?? (event.key >= "1" && event.key <= "9" && (() => toggleClass(Number(event.key))));
  if (!act) return;
  event.preventDefault();
  act();
}

function listen() {
  document.addEventListener("keydown", onKey);
  for (const button of document.querySelectorAll("[data-plane]")) {
    button.onclick = () => setPlane(button.dataset.plane);
  }
  $("convention").onclick = turnRound;
  $("slice").oninput = () => viewer.setSlice($("slice").value - 1);
  $("frame").oninput = () => (stop(), viewer.setFrame($("frame").value - 1));
  $("play").onclick = play;
  $("overlay").onchange = $("opacity").oninput = () => viewer.setOpacity(opacity());
  for (const input of [$("window-low"), $("window-high")]) {
    input.onchange = () => viewer.setWindow($("window-low").valueAsNumber, $("window-high").valueAsNumber);
  }
  $("reset").onclick = () => {
    localStorage.removeItem(`mamba-unet ${chosen.job.model}`);
    viewer.setColors(colorTable());
    drawResult();
    describe();
  };
  $("help-open").onclick = () => $("help").showModal();

  for (const kind of ["files", "folder"]) {
    for (const button of document.querySelectorAll(`[data-pick="${kind}"]`)) button.onclick = () => $(kind).click();
    $(kind).onchange = () => {
      open(pickedFiles($(kind).files));
      $(kind).value = ""; // the same file may be chosen again
    };
  }
  let inside = 0; // enter and leave come for every element on the way
  const dropping = (count) => document.body.classList.toggle("dropping", (inside = count) > 0);
  const DRAG = {
    dragenter: () => dropping(inside + 1),
    dragleave: () => dropping(inside - 1),
    dragover: () => {},
    drop: async (event) => {
      dropping(0);
      open(await droppedFiles(event.dataTransfer));
    },
  };
  for (const [type, act] of Object.entries(DRAG)) {
    const handler = (event) => {
      event.preventDefault();
      event.stopPropagation();
      act(event);
    };
    document.addEventListener(type, handler, { capture: true }); // before the viewer, which would keep it to itself
  }
}

async function begin() {
  history.replaceState(null, "", location.pathname); // the token is a cookie by now
  about = await api("GET", "about");
  $("model").replaceChildren(...about.models.map(({ name, dataset }) =>
    element("option", { value: name, textContent: name, title: dataset })));
  const minutes = Math.round(about.keep_minutes);
  $("keeping").textContent = `Scans and results leave the server ${minutes} minutes after they were last asked for.`;
  listen();
  viewer.setOpacity(opacity());
  try {
    await viewer.attach($("canvas"));
  } catch {
    cover("This browser has no WebGL 2, which the viewer needs. Results can be downloaded all the same.");
  }
  await recall();
}

begin();
