// What the page's parts share.

import { Viewer } from "./viewer.js";

export const page = {
  about: null, // what the server says of itself
  chosen: null, // the entry of the list that is shown, see list.js
  viewer: new Viewer(),
};
