// How what was found is laid over the image: filled, outlined or both, and how strongly.

import { $ } from "./dom.js";
import { page } from "./state.js";

/** How the segmentation is laid over the image; each browser keeps its choice. */
export function drawOverlay() {
  const { viewer } = page;
  const style = localStorage.getItem("mamba-unet overlay") ?? "both";
  for (const button of document.querySelectorAll("[data-style]")) {
    button.setAttribute("aria-pressed", button.dataset.style === style);
  }
  const shown = $("overlay").checked;
  const filled = style !== "outline" || Boolean(viewer.doubt);
  $("opacity").disabled = !filled;
  const opacity = $("opacity").value / 100;
  const strong = viewer.doubt ? Math.sqrt(opacity) : opacity; // the colours of uncertainty are clear by themselves
  viewer.setOverlay(shown && filled ? strong : 0, shown && style !== "fill");
}

export function listenToOverlay() {
  $("overlay").onchange = $("opacity").oninput = drawOverlay;
  for (const button of document.querySelectorAll("[data-style]")) {
    button.onclick = () => (localStorage.setItem("mamba-unet overlay", button.dataset.style), drawOverlay());
  }
  drawOverlay();
}
