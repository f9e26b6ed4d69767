// Files from a drop or a file dialog, and their way to the server.

import { detail } from "./dom.js";

/** The files of a drop, those in dropped folders included: [{name, file}]; names keep the folders. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return pickedFiles(transfer.files);
  return (await Promise.all(entries.map(filesBelow))).flat().filter(({ name }) => !isHidden(name));
}

/** The files of an <input type=file>. */
export function pickedFiles(files) {
  return [...files]
    .map((file) => ({ name: file.webkitRelativePath || file.name, file }))
    .filter(({ name }) => !isHidden(name));
}

const isHidden = (name) => name.split("/").some((part) => part.startsWith("."));

async function filesBelow(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ name: entry.fullPath.replace(/^\//, ""), file }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    for (const one of some) found.push(...(await filesBelow(one)));
  }
}

/** Send files one after another; `progress` is told the share that is sent, `signal` stops it. */
export async function sendFiles(url, files, progress, signal) {
  const total = files.reduce((sum, { file }) => sum + file.size, 0) || 1;
  let before = 0;
  for (const { name, file } of files) {
    await send(`${url}?name=${encodeURIComponent(name)}`, file, (bytes) => progress((before + bytes) / total), signal);
    before += file.size;
  }
}

function send(url, file, progress, signal) { // fetch does not tell how far an upload is
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", url);
    request.upload.onprogress = (event) => progress(event.loaded);
    request.onload = () => (request.status < 300 ? resolve() : reject(new Error(detail(request.responseText))));
    request.onerror = () => reject(new Error("The server cannot be reached, or it has refused the file."));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(file);
  });
}
