// Elements of the page, and words with the server.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export function setText(node, text) { // a screen reader speaks each change once
  if (node.textContent !== text) node.textContent = text;
}

/** The words over the viewer; "" uncovers it. */
export function cover(text) {
  $("cover").hidden = !text;
  $("cover").textContent = text;
}

/** A file name with what no screen shows as escapes, as the server writes it. */
export const printable = (name) =>
  name.replace(/[\p{C}\u2028\u2029]/gu, (it) => `\\u${it.codePointAt(0).toString(16).padStart(4, "0")}`);

export async function api(method, path, body) {
  const options = body ? { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } } : {};
  const answer = await fetch(`/api/${path}`, { method, ...options }).catch(() => {
    throw new Error("The server cannot be reached.");
  });
  if (!answer.ok) throw Object.assign(new Error(detail(await answer.text())), { status: answer.status });
  return answer.status === 204 ? null : answer.json();
}

/** What the server says is wrong. */
export function detail(text) {
  try {
    return JSON.parse(text).detail;
  } catch {
    return text || "The server gave no reason.";
  }
}
