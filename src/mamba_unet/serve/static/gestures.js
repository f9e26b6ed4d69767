// Mouse and fingers on the viewer.
//
// Left button or one finger: crosshair, the ruler where it is on, in 3D turning. Right button: window. Middle button or two fingers: pan; pinch, or the wheel
// with ctrl: zoom. Wheel: slices. Double click: the window and the whole image again.

const WINDOW_PX = 250; // a drag of so many pixels moves the window by its width
const WHEEL_PX = 60; // of a touch pad, for one slice; a wheel's notch is more
const TAP_PX = 8; // a finger that moves less has not moved

export function listenToGestures(viewer, canvas) {
  const fingers = new Map(); // pointer -> where it is; a mouse's button is one too
  let act = null; // what the drag does
  let wheel = 0;
  let waiting = false;

  const place = (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };
  const millimetres = ([x, y]) => {
    const { dpr } = viewer.nv.uiData;
    const [a, b, c] = viewer.nv.screenXY2mm(x * dpr, y * dpr);
    return Number.isFinite(a) ? [a, b, c] : undefined;
  };
  const drag = (from, to) => {
    const [start, end] = [millimetres(from), millimetres(to)];
    if (start && end) viewer.zoom.pan(end.map((mm, axis) => mm - start[axis]));
  };
  const window = ([fromX, fromY], [toX, toY]) => {
    const [low, high] = viewer.window;
    const width = (high - low) * Math.exp((toX - fromX) / WINDOW_PX);
    const level = (low + high) / 2 - ((toY - fromY) / WINDOW_PX) * (high - low);
    if (viewer.first) viewer.setWindow(level - width / 2, level + width / 2);
  };
  const crosshair = (from, to) => (viewer.pen ? viewer.pen.draw(from ?? to, to) : viewer.nv.mouseClick(...to));
  const measure = (_, to) => viewer.ruler.drag(to);
  const turnRound = ([fromX, fromY], [toX, toY]) => {
    const { renderAzimuth, renderElevation } = viewer.nv.scene;
    viewer.nv.setRenderAzimuthElevation(renderAzimuth - (toX - fromX) / 2, renderElevation + (toY - fromY) / 2);
  };
  const is3D = (place) => viewer.nv.inRenderTile(...place.map((value) => value * viewer.nv.uiData.dpr)) >= 0;
  const firstAct = (place) => (is3D(place) ? turnRound : viewer.ruler.on ? measure : crosshair);
  const pinch = (before, now) => {
    const middle = ([a, b]) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    const distance = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
    viewer.zoom.by(distance(now) / distance(before), millimetres(middle(before)));
    drag(middle(before), middle(now));
  };

  const down = (event) => {
    fingers.set(event.pointerId, place(event));
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    const chosen = firstAct(place(event));
    if (chosen === measure && event.button === 0 && fingers.size === 1) viewer.ruler.begin(place(event));
    if (event.pointerType === "touch") {
      if (fingers.size > 1) viewer.pen?.cancel();
      act = fingers.size > 1 ? pinch : null; // of one finger it is not known yet
      return;
    }
    act = [chosen, drag, window][event.button];
    if (act === crosshair) crosshair(null, place(event));
  };
  const move = (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    if (!act && Math.hypot(now[0] - before[0], now[1] - before[1]) < TAP_PX) return;
    act ??= firstAct(before);
    if (waiting) return; // one picture at a time
    waiting = true;
    requestAnimationFrame(() => (waiting = false));
    if (act === pinch) {
      const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) pinch([before, other], [now, other]);
    } else {
      act?.(before, now);
    }
    fingers.set(event.pointerId, now);
  };
  const up = (event) => {
    const before = fingers.get(event.pointerId);
    if (event.type === "pointerup" && fingers.size === 1 && !act && firstAct(place(event)) === crosshair) {
      crosshair(null, place(event)); // a tap
    } else if (event.type === "pointerup" && act === crosshair && viewer.pen && before) {
      crosshair(before, place(event));
    }
    viewer.pen?.end();
    fingers.delete(event.pointerId);
    if (!fingers.size) act = null;
  };
  const turn = (event) => {
    event.preventDefault();
    if (event.ctrlKey) return viewer.zoom.by(Math.exp(-event.deltaY / 200), millimetres(place(event)));
    wheel += event.deltaY;
    if (Math.abs(wheel) < WHEEL_PX && event.deltaMode === 0) return;
    const tile = viewer.marks.tileAt(...place(event));
    if (tile) viewer.step(tile.axes[2], Math.sign(wheel));
    wheel = 0;
  };
  const again = () => {
    if (viewer.pen) return; // two dabs
    viewer.zoom.fit();
    viewer.resetWindow();
  };

  const HANDLERS = {
    pointerdown: down, pointermove: move, pointerup: up, pointercancel: up, wheel: turn, dblclick: again,
    contextmenu: (event) => event.preventDefault(),
    mousedown: (event) => event.button === 1 && event.preventDefault(), // no scrolling by the middle button
  };
  for (const [type, handler] of Object.entries(HANDLERS)) {
    canvas.addEventListener(type, (event) => viewer.image && handler(event), { passive: false });
  }
}
