// What is taken away beside single files: everything in one zip, the table, a picture of the view.

import { styleOf } from "./classes.js";
import { $, element, setText } from "./dom.js";
import { page } from "./state.js";

/** @param job whose result is shown */
export function drawTake({ id }) {
  const zip = element("a", { href: `/api/jobs/${id}/everything.zip`, download: "" }, "Everything", element("small", { textContent: "zip" }));
  const picture = element("button", { onclick: takePicture }, "This view", element("small", { textContent: "PNG" }));
  $("downloads").append(zip, picture);
  setText($("copied"), "");
}

export function listenToTake() {
  $("copy-table").onclick = async () => {
    setText($("copied"), (await copy(tableText())) ? "Copied." : "This browser does not let the page copy.");
  };
}

/** The structures' numbers as they are shown, for a spreadsheet. */
function tableText() {
  const shown = (cell) => getComputedStyle(cell).display !== "none";
  const rows = [...$("structures").rows].map((row) => {
    const name = row.dataset.index ? styleOf(Number(row.dataset.index)).name : "structure";
    return [name, ...[...row.cells].slice(1).filter(shown).map((cell) => cell.textContent)].join("\t");
  });
  return `${rows.join("\n")}\n`;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // not on a page without encryption, unless it is of this machine
    const area = element("textarea", { value: text });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

function takePicture() {
  const { viewer, chosen } = page;
  const { canvas } = viewer.nv;
  const copy = element("canvas", { width: canvas.width, height: canvas.height });
  const context = copy.getContext("2d");
  viewer.nv.drawScene(); // what a browser has shown, it need not keep
  context.drawImage(canvas, 0, 0);
  context.drawImage(viewer.marks.canvas, 0, 0);
  copy.toBlob((blob) => {
    const url = URL.createObjectURL(blob);
    const download = `${chosen.job.name}_${viewer.plane}_slice${viewer.slice + 1}.png`;
    element("a", { href: url, download }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }, "image/png");
}
