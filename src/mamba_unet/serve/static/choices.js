// The volumes of an upload to choose from: a picture of each, and what its header says.

import { element } from "./dom.js";

/** @param choose called with the index of the volume */
export function choiceButtons(job, choose) {
  return job.volumes.map((name, volume) => {
    const series = job.series[volume];
    const picture = element("img", { src: `/api/jobs/${job.id}/thumbnails/${volume}`, alt: "", loading: "lazy" });
    picture.onerror = () => (picture.style.visibility = "hidden"); // a volume that cannot be read says so when chosen
    const words = element("span", {}, element("strong", { textContent: series?.description || name }));
    if (series) words.append(element("small", { textContent: facts(series) }));
    return element("li", {}, element("button", { title: name, onclick: () => choose(volume) }, picture, words));
  });
}

function facts({ modality, number, images }) {
  const said = [modality, number === null ? "" : `series ${number}`, images === 1 ? "1 image" : `${images.toLocaleString("en")} images`];
  return said.filter(Boolean).join(", ");
}
