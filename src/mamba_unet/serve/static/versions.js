// The versions of a result: the network's, and what people made of it. Which one is shown is `page.version`.

import { colorTable } from "./classes.js";
import { $, element } from "./dom.js";
import { drawEdit, leave } from "./edit.js";
import { drawOverlay } from "./overlay.js";
import { drawResult } from "./result.js";
import { page } from "./state.js";
import { showUncertainty } from "./uncertainty.js";
import { load } from "./viewer.js";

const edits = () => page.chosen?.job?.edits ?? [];

/** See `result.write_result`. */
export const shownResult = () => edits()[page.version - 1]?.result ?? page.chosen?.job?.result;

/** Where the files of the version lie. */
export const shownPath = () => `/api/jobs/${page.chosen.job.id}${page.version ? `/edits/${page.version}` : ""}`;

export function drawVersions() {
  $("version-field").hidden = !edits().length;
  const options = edits().map(({ number, by, saved }) => {
    const time = new Date(saved).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    return element("option", { value: number, textContent: [`Edit ${number}`, by, time].filter(Boolean).join(" · ") });
  });
  $("version").replaceChildren(element("option", { value: 0, textContent: "Network" }), ...options);
  $("version").value = page.version;
  $("version").onchange = () => showVersion(Number($("version").value));
}

export async function showVersion(number) {
  if (!leave()) return drawVersions();
  const { chosen, viewer } = page;
  const before = page.version;
  page.version = number;
  try {
    const label = await load(`${shownPath()}/label.nii.gz`);
    if (page.chosen !== chosen || page.version !== number) return;
    viewer.showLabel(label, colorTable());
    await showUncertainty();
    drawOverlay();
  } catch (error) {
    page.version = before;
    $("notes").replaceChildren(element("li", { textContent: `Version ${number} cannot be shown: ${error.message}` }));
    return drawVersions();
  }
  drawResult();
  drawEdit();
}
