// The classes of the network that is shown: their names and colours, which each browser may choose for itself.

import { page } from "./state.js";

export const hiddenClasses = new Set();

export const classes = () => page.about.models.find(({ name }) => name === page.chosen.job.model).classes;
export const styleOf = (index) => ({ ...classes()[index - 1], ...styles()[index] });

const key = () => `mamba-unet ${page.chosen.job.model}`;
const styles = () => JSON.parse(localStorage.getItem(key()) ?? "{}");

export function setStyle(index, change) {
  const all = styles();
  all[index] = { ...all[index], ...change };
  localStorage.setItem(key(), JSON.stringify(all));
  page.viewer.setColors(colorTable());
}

export function forgetStyles() {
  localStorage.removeItem(key());
  page.viewer.setColors(colorTable());
}

/** NiiVue's table of label colours. */
export function colorTable() {
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
