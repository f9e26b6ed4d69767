// What the page's parts share.

import { Viewer } from "./viewer.js";

export const page = {
  about: null, // what the server says of itself
  chosen: null, // the entry of the list that is shown, see list.js
  version: 0, // of its result: 0 is the network's, 1 the first edit
  draft: null, // structures as measured while somebody edits, see edit.js
  viewer: new Viewer(),
};
