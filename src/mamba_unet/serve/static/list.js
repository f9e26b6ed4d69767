// The volumes of this tab: what the server says of each, and its row in the list.

import { drawOffer } from "./card.js";
import { choiceButtons } from "./choices.js";
import { $, api, element, printable, setText } from "./dom.js";
import { mayRemove, mayReplace } from "./edit.js";
import { choose, show } from "./show.js";
import { page } from "./state.js";
import { isWanted } from "./uncertainty.js";
import { sendFiles } from "./upload.js";

const MOVING = ["reading", "queued", "running"];
const POLL_MS = 400;

const entries = []; // newest first; see newEntry

/** A volume of this tab: what the server says of it (`job`), and its row in the list. */
function newEntry(name) {
  const entry = { name, job: null, sent: 0, error: "", version: 0, abort: new AbortController() };
  const button = (text, act) => element("button", { textContent: text, onclick: act });
  entry.draw = () => drawEntry(entry);
  entry.row = element("li");
  entry.title = element("button", { className: "name", onclick: () => choose(entry) });
  entry.status = element("p", { className: "status" });
  entry.count = element("p", { className: "status count" });
  entry.bar = element("progress", { max: 1 });
  entry.choices = element("ul", { className: "choices" });
  entry.cancel = button("Cancel", () => cancel(entry));
  entry.again = button("Segment again", () => again(entry));
  entry.other = button("Another volume of it", () => offerVolumes(entry));
  entry.remove = element("button", { className: "link", textContent: "✕", title: "Remove", onclick: () => mayRemove(entry) && remove(entry) });
  const head = element("div", { className: "row" }, entry.title, entry.remove);
  const buttons = element("div", { className: "buttons" }, entry.cancel, entry.again, entry.other);
  entry.row.append(head, element("div", { className: "row wrap" }, entry.status, entry.count), entry.bar, entry.choices, buttons);
  entries.unshift(entry);
  $("jobs").prepend(entry.row);
  document.body.classList.remove("empty");
  return entry;
}

/** Upload files, and have them segmented. */
export async function open(files) {
  if (!files.length) return;
  const [first, ...below] = files[0].name.split("/");
  const entry = newEntry(below.length || files.length === 1 ? printable(first) : `${files.length} files`);
  choose(entry);
  try {
    const size = files.reduce((sum, { file }) => sum + file.size, 0);
    const { max_upload_bytes } = page.about;
    if (size > max_upload_bytes) {
      const mib = (bytes) => `${Math.ceil(bytes / 2 ** 20).toLocaleString("en")} MiB`;
      throw new Error(`${mib(size)} are more than the server takes, ${mib(max_upload_bytes)}.`);
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

/** Segment a volume again, with what is chosen now; false where its owner, asked first, says no. */
export const again = (entry) => mayReplace(entry) && start(entry, entry.job.volume);

async function start(entry, volume = null) {
  const before = entry.job;
  entry.job = { ...before, state: "reading" }; // until the server answers, which it does when it has read it
  entry.error = "";
  entry.choosing = false;
  drawEntry(entry);
  try {
    const axis = $("slice-axis").value || null;
    const wanted = { model: $("model").value, volume, slice_axis: axis, uncertainty: isWanted() };
    entry.job = await api("POST", `jobs/${entry.job.id}/start`, wanted);
    entry.version += 1;
    entry.choosing = entry.job.state === "choosing";
    drawEntry(entry);
    if (entry === page.chosen) show();
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
  if (entry === page.chosen && entry.job.state === "done") show();
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
  if (entry === page.chosen) choose(entries[0] ?? null);
  drawOffer(again);
}

/** Have the server delete what it has of a volume. */
function forget(entry) {
  if (entry.job) api("DELETE", `jobs/${entry.job.id}`).catch(() => {}); // it may be gone already
  entry.job = null;
}

function fail(entry, error) {
  entry.error = error.message;
  if (error.status === 404) entry.job = null;
  drawEntry(entry);
  if (entry === page.chosen) show();
}

function offerVolumes(entry) {
  entry.choosing = !entry.choosing;
  drawEntry(entry);
}

function drawEntry(entry) {
  const { job } = entry;
  const state = job?.state ?? "failed";
  const moving = MOVING.includes(state);
  const uploading = !entry.error && (state === "uploading" || (!job && !entry.error));
  const name = job?.volumes.length && !entry.choosing ? job.name : entry.name;
  if (entry.title.textContent !== name) { // long names break where their parts do
    entry.title.replaceChildren(...name.split(/(?<=[_.-])/).flatMap((part) => [part, element("wbr")]));
  }
  entry.remove.setAttribute("aria-label", `Remove ${name}`);
  entry.bar.setAttribute("aria-label", `progress of ${name}`);
  entry.row.classList.toggle("chosen", entry === page.chosen);
  entry.title.setAttribute("aria-current", entry === page.chosen);
  const problem = entry.error || (state === "failed" ? job?.error : "");
  entry.row.classList.toggle("problem", Boolean(problem));
  entry.status.role = problem ? "alert" : "status";
  setText(entry.status, problem || words(entry));
  const [done, all] = job?.slices ?? [0, 0];
  const tiles = page.about.models.find(({ name }) => name === job?.model)?.tiles; // what the network takes at a time
  const count = state === "running" && all && !problem ? `${done} / ${all} ${tiles}` : "";
  setText(entry.count, uploading ? `${Math.floor(100 * entry.sent)} %` : count);
  entry.bar.hidden = !moving && !uploading;
  const share = uploading ? entry.sent : done / all;
  if (uploading ? share < 1 : state === "running" && all) entry.bar.value = share;
  else entry.bar.removeAttribute("value"); // it goes on, one cannot say how far
  entry.cancel.hidden = !moving && !(uploading && entry.sent < 1);
  entry.again.hidden = moving || uploading || entry.choosing || !job?.image;
  setText(entry.again, job?.result && job.model !== $("model").value ? `Segment with ${$("model").value}` : "Segment again");
  entry.other.hidden = moving || (job?.volumes.length ?? 0) < 2 || state === "choosing";
  entry.remove.hidden = moving || uploading;
  entry.choices.hidden = !entry.choosing;
  if (entry === page.chosen) drawOffer(again);
  if (entry.choosing && !entry.choices.childElementCount) {
    entry.choices.append(...choiceButtons(job, (volume) => mayReplace(entry) && (choose(entry), start(entry, volume))));
  }
}

function words({ job, sent, choosing }) {
  if (!job || job.state === "uploading") return sent < 1 ? "Uploading" : "Reading";
  const [done, all] = job.slices;
  if (choosing) return `It holds ${job.volumes.length} volumes. Which one?`;
  return {
    reading: "Reading",
    queued: job.ahead ? `Waiting; ${job.ahead} before it` : "Waiting",
    running: done < all || !all ? "Segmenting" : "Measuring",
    done: (page.about.models.length > 1 ? `Done with ${job.model}` : "Done") + (job.result?.misfits.length ? "; may not fit" : ""),
    cancelled: "Cancelled",
  }[job.state];
}

/** Volumes of this tab are found again after a reload, as long as the server has them. */
function remember() {
  const known = entries.filter(({ job }) => job).map(({ job }) => job.id);
  sessionStorage.setItem("mamba-unet", JSON.stringify(known.reverse()));
}

export async function recall() {
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
