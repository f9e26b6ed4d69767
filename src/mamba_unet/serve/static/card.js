// The network that is chosen: what it is, and the offer to segment again with it.

import { $, element } from "./dom.js";
import { page } from "./state.js";

const FIRST = ["training data", "channels", "classes", "chosen by", "licence"]; // what a user asks first
const isMeasure = (title) => title.startsWith("measured on");

export function openCard() {
  const { name, dataset, card, use } = page.about.models.find(({ name }) => name === $("model").value);
  const titles = Object.keys(card);
  const measures = titles.filter(isMeasure);
  const first = [...FIRST.slice(0, 4), ...measures, ...FIRST.slice(4)].filter((title) => card[title]);
  const rest = titles.filter((title) => !first.includes(title));
  $("card-title").textContent = dataset && dataset !== name ? `${name}: trained on ${dataset}` : name;
  const lines = (titles) => titles.flatMap((title) => [
    element("dt", { textContent: title }), element("dd", { textContent: card[title] }),
  ]);
  const unmeasured = measures.length ? [] : [
    element("dt", { textContent: "measured on" }),
    element("dd", { textContent: "no patients other than those it was chosen on, as far as its file tells" }),
  ];
  $("card-facts").replaceChildren(...lines(first), ...unmeasured, ...lines(rest));
  $("card-use").textContent = use;
  $("card").showModal();
}

/** Another network than that of the result is chosen: what it would find is a button away. */
export function drawOffer(segment) {
  const job = page.chosen?.job;
  const model = $("model").value;
  const other = Boolean(job?.result) && job.model !== model;
  $("offer").hidden = !other;
  if (!other) return;
  const again = element("button", { className: "primary", textContent: `Segment with ${model}`, onclick: () => segment(page.chosen) });
  $("offer").replaceChildren(element("span", { textContent: `This is the result of ${job.model}.` }), again);
}
