// A cine's frames, one after another.

import { $ } from "./dom.js";
import { page } from "./state.js";

const FRAME_MS = 80;
let playing = null;

export function play() {
  const { viewer } = page;
  if (playing) return stop();
  if (viewer.frames < 2) return;
  playing = setInterval(() => viewer.setFrame((viewer.frame + 1) % viewer.frames), FRAME_MS);
  $("play").textContent = "❚❚";
  $("play").setAttribute("aria-label", "Pause");
}

export function stop() {
  clearInterval(playing);
  playing = null;
  $("play").textContent = "▶";
  $("play").setAttribute("aria-label", "Play");
}

export function setFrame(frame) {
  stop();
  page.viewer.setFrame(frame);
}
