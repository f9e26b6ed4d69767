// How sure the network is of each voxel, in place of the structures' fill.

import { $ } from "./dom.js";
import { page } from "./state.js";
import { load } from "./viewer.js";

const FILE = "uncertainty.nii.gz";
const KEPT = "mamba-unet uncertainty"; // each browser keeps its choice
const RANGE = [5, 100]; // per cent; what is below stays clear

/** Whether it is to be computed and shown. */
export const isWanted = () => localStorage.getItem(KEPT) === "on";

/** @param segment has an entry segmented again, unless it returns false; @param redraw the overlay */
export function listenToUncertainty(segment, redraw) {
  $("uncertainty").checked = isWanted();
  $("uncertainty").onchange = async () => {
    localStorage.setItem(KEPT, $("uncertainty").checked ? "on" : "off");
    if (isWanted() && !page.chosen.job.result.files.includes(FILE)) {
      if (segment(page.chosen) !== false) return;
      localStorage.setItem(KEPT, "off"); // somebody is asked first, and said no
    }
    await showUncertainty();
    redraw();
  };
}

/** Lay it over the image where it is wanted and known. */
export async function showUncertainty() {
  const { chosen: { job }, viewer } = page;
  const known = job.result.files.includes(FILE);
  $("uncertainty").checked = isWanted() && known;
  $("uncertainty-scale").hidden = !$("uncertainty").checked;
  $("structures").classList.toggle("doubted", $("uncertainty").checked);
  if (!viewer.label) return;
  if (!$("uncertainty").checked) return viewer.showDoubt(null);
  const key = viewer.labelOf;
  const doubt = await load(`/api/jobs/${job.id}/doubt.nii.gz`);
  if (viewer.labelOf === key && $("uncertainty").checked) viewer.showDoubt(doubt, RANGE);
}
