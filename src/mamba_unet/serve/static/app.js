// The page: what it begins with, and the ways in which files come to it.

import { openCard } from "./card.js";
import { listen } from "./controls.js";
import { $, api, cover, element } from "./dom.js";
import { listenToEdits } from "./edit.js";
import { again, open, recall } from "./list.js";
import { drawOverlay, listenToOverlay } from "./overlay.js";
import { NO_GRAPHICS, describe } from "./show.js";
import { page } from "./state.js";
import { listenToTake } from "./take.js";
import { listenToUncertainty } from "./uncertainty.js";
import { droppedFiles, pickedFiles } from "./upload.js";

function takeFiles() {
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
    document.addEventListener(type, (event) => {
      event.preventDefault();
      act(event);
    });
  }
}

async function begin() {
  history.replaceState(null, "", location.pathname); // the token is a cookie by now
  page.about = await api("GET", "about");
  $("model").replaceChildren(...page.about.models.map(({ name, dataset }) =>
    element("option", { value: name, textContent: name, title: dataset })));
  $("model").onchange = () => page.chosen?.draw();
  $("card-open").onclick = openCard;
  const minutes = Math.round(page.about.keep_minutes);
  $("keeping").textContent = `Volumes and results leave the server ${minutes} minutes after they were last asked for.`;
  if (page.about.collects) $("keeping").textContent += " Edits that you save are collected for training.";
  page.viewer.changed = describe;
  listen();
  listenToOverlay();
  listenToTake();
  listenToUncertainty(again, drawOverlay);
  listenToEdits();
  takeFiles();
  try {
    await page.viewer.attach($("canvas"), $("marks"));
  } catch {
    cover(NO_GRAPHICS);
  }
  await recall();
}

begin();
