// The explorer: test images as points, and the decoder, which runs in a worker, at any z.
const root = document.getElementById("explorer");
if (root) {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const [channels, height, width] = data.shape;
  const dims = data.latent.reduce((a, b) => a * b, 1);
  const all = unpackFloats(data.z);
  const count = all.length / dims;
  const zOf = (i) => all.subarray(i * dims, (i + 1) * dims);
  const views = data.projections.map((view) => ({ ...view, points: unpackFloats(view.points) }));
  const circled = data.unit && dims > 1; // of one dimension the other axis means nothing
  const dense = data.contours.map(unpackFloats);
  const sprite = new Image();
  sprite.src = data.images.url;
  const nameOf = (i) => data.names[data.labels[i]];

  // ---- networks, in a worker -----------------------------------------------------------------

  const worker = new Worker(URL.createObjectURL(new Blob([document.getElementById("network").textContent])));
  const waiting = new Map();
  let asked = 0;
  worker.onmessage = ({ data: { id, output } }) => { waiting.get(id)(output); waiting.delete(id); };
  for (const [name, program] of Object.entries(data.networks)) worker.postMessage({ name, program });
  const compute = (name, inputs, shapes) => new Promise((done) => {
    waiting.set(++asked, done);
    worker.postMessage({ id: asked, name, inputs, shapes });
  });
  const withLabel = (inputs, shapes) => (data.conditional ? [[...inputs, [state.label]], [...shapes, [1]]] : [inputs, shapes]);

  // ---- what is shown: one z, and what follows from it ----------------------------------------

  const state = { z: new Float32Array(dims), label: 0, view: 0, angle: [0.6, 0.35], alone: null };
  const decoded = part("decoded");
  decoded.width = width;
  decoded.height = height;
  const scale = Math.max(1, Math.floor(224 / Math.max(width, height)));
  decoded.style.width = `${width * scale}px`;
  decoded.dataset.count = 0;

  let busy = false;
  let wanted = false;
  async function decode() {
    if (!data.networks.decode) return;
    if (busy) return (wanted = true);
    busy = true;
    const z = Float32Array.from(state.z);
    const image = await compute("decode", ...withLabel([z], [[1, ...data.latent]]));
    paint(decoded, image);
    decoded.dataset.z = JSON.stringify([...z]);
    decoded.dataset.count = Number(decoded.dataset.count) + 1;
    busy = false;
    if (wanted) { wanted = false; decode(); }
  }

  function paint(canvas, image) {
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    const area = width * height;
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = Math.round(255 * image[(channels === 1 ? 0 : c) * area + i]);
      pixels.data[4 * i + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
  }

  function set(z, { keepWalk = false } = {}) {
    state.z = Float32Array.from(z);
    if (!keepWalk) walk.value = 0;
    decode();
    draw();
    nearest();
    sliders.forEach((move) => move());
    const shown = Array.from(state.z.subarray(0, 3), number).join(", ");
    part("where").textContent = `z = (${shown}${dims > 3 ? ", …" : ""})`;
  }

  // ---- the nearest test images ---------------------------------------------------------------

  const SHOWN = 4;
  const near = Array.from({ length: SHOWN }, () => {
    const box = part("near").appendChild(document.createElement("div"));
    const canvas = box.appendChild(document.createElement("canvas"));
    canvas.setAttribute("role", "img");
    return { canvas, words: box.appendChild(document.createElement("div")) };
  });
  const decodesAs = data.conditional && data.networks.decode;
  function nearest() {
    const distance = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      let sum = 0;
      for (let d = 0; d < dims; d++) sum += (all[i * dims + d] - state.z[d]) ** 2;
      distance[i] = decodesAs && data.labels[i] !== state.label ? Infinity : sum;
    }
    const order = Array.from(distance.keys()).filter((i) => distance[i] < Infinity).sort((a, b) => distance[a] - distance[b]);
    near.forEach(({ canvas, words }, k) => {
      const i = order[k];
      canvas.hidden = i === undefined;
      words.textContent = "";
      if (i === undefined) return;
      thumbnail(canvas, i, 64);
      canvas.setAttribute("aria-label", `Test image${nameOf(i) === undefined ? "" : ` of ${nameOf(i)}`}`);
      words.textContent = [nameOf(i), `distance ${number(Math.sqrt(distance[i]))}`].filter((w) => w !== undefined).join(", ");
    });
    part("told").textContent = `nearest: ${near.map(({ words }) => words.textContent).filter(Boolean).join(", ") || "none"}`;
  }
  function thumbnail(canvas, i, side) {
    const times = Math.max(1, Math.floor(side / Math.max(width, height)));
    canvas.width = width;
    canvas.height = height;
    canvas.style.width = `${width * times}px`;
    const column = i % data.images.columns;
    const row = Math.floor(i / data.images.columns);
    canvas.getContext("2d").drawImage(sprite, column * width, row * height, width, height, 0, 0, width, height);
  }

  // ---- the plane -----------------------------------------------------------------------------

  const plane = root.querySelector(".stage canvas");
  let places = []; // of the points on the canvas, in its own pixels
  let frame = null; // from coordinates to these pixels

  function coordinates(view) {
    if (view.kind !== "turning") return (x) => x;
    const [a, b] = state.angle;
    return ([x, y, z]) => {
      const across = x * Math.cos(a) - y * Math.sin(a);
      const depth = x * Math.sin(a) + y * Math.cos(a);
      return [across, z * Math.cos(b) + depth * Math.sin(b), depth];
    };
  }

  function limits(view) {
    const stride = view.kind === "turning" ? 3 : 2;
    if (view.kind === "turning") {
      const reach = 1.05 * Math.max(...view.points.map(Math.abs));
      return [0, 0, reach];
    }
    const sorted = [0, 1].map((d) => view.points.filter((_, i) => i % stride === d).sort());
    const cut = (v, q) => v[Math.min(v.length - 1, Math.max(0, Math.round(q * (v.length - 1))))];
    let [left, right, bottom, top] = [cut(sorted[0], 0.002), cut(sorted[0], 0.998), cut(sorted[1], 0.002), cut(sorted[1], 0.998)];
    if (circled && view.kind === "linear") {
      const [x, y] = view.prior;
      [left, right, bottom, top] = [Math.min(left, x - 3.4), Math.max(right, x + 3.4), Math.min(bottom, y - 3.4), Math.max(top, y + 3.4)];
    }
    if (view.kind === "linear") {
      for (const line of dense) for (let i = 0; i < line.length; i += 2) {
        [left, right] = [Math.min(left, line[i]), Math.max(right, line[i])];
        [bottom, top] = [Math.min(bottom, line[i + 1]), Math.max(top, line[i + 1])];
      }
    }
    return [(left + right) / 2, (bottom + top) / 2, 0.53 * Math.max(right - left, top - bottom, 1e-3)];
  }
  views.forEach((view) => (view.limits = limits(view)));

  // z as the point where it lies on a linear view
  const project = (view, z) => view.basis.map((axis) => axis.reduce((sum, b, d) => sum + b * (z[d] - view.origin[d]), 0));

  function draw() {
    const view = views[state.view];
    const size = Math.max(1, Math.round(plane.clientWidth * devicePixelRatio));
    if (plane.width !== size) plane.width = plane.height = size;
    const context = plane.getContext("2d");
    context.clearRect(0, 0, size, size);
    const [middleX, middleY, reach] = view.limits;
    const unit = size / (2 * reach);
    frame = { x: (x) => size / 2 + (x - middleX) * unit, y: (y) => size / 2 - (y - middleY) * unit, unit, size };
    const turn = coordinates(view);
    const stride = view.kind === "turning" ? 3 : 2;
    if (circled && view.kind === "linear") circles(context, view.prior);
    if (view.kind === "linear") contours(context);
    if (view.kind === "turning") axes(context, view, turn);
    places = Array.from({ length: count }, (_, i) => turn(view.points.subarray(i * stride, (i + 1) * stride)));
    const order = stride === 3 ? [...places.keys()].sort((a, b) => places[b][2] - places[a][2]) : places.keys();
    const dot = (count > 600 ? 2.4 : 3.2) * devicePixelRatio;
    for (const i of order) {
      const label = data.labels[i];
      const away = state.alone !== null && label !== state.alone;
      context.globalAlpha = away ? 0.06 : stride === 3 ? 0.75 - 0.45 * (places[i][2] / reach) : 0.75;
      context.fillStyle = label < 0 ? colourOf("--mark") : shade(data.colours[label]);
      context.beginPath();
      context.arc(frame.x(places[i][0]), frame.y(places[i][1]), dot, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
    const pixels = places.map((place) => [frame.x(place[0]), frame.y(place[1])]);
    nameClasses(context, pixels, data.labels, data.names, state.alone);
    words(context, view);
    pointer(context, view, turn);
  }

  function circles(context, [x, y]) {
    context.strokeStyle = colourOf("--soft");
    context.lineWidth = devicePixelRatio;
    context.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
    for (const sigma of [1, 2, 3]) {
      context.beginPath();
      context.arc(frame.x(x), frame.y(y), sigma * frame.unit, 0, 7);
      context.stroke();
    }
    context.setLineDash([]);
  }
  function contours(context) {
    context.strokeStyle = colourOf("--soft");
    context.lineWidth = devicePixelRatio;
    context.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
    for (const line of dense) {
      context.beginPath();
      for (let i = 0; i < line.length; i += 2) context.lineTo(frame.x(line[i]), frame.y(line[i + 1]));
      context.stroke();
    }
    context.setLineDash([]);
  }
  function axes(context, view, turn) {
    context.strokeStyle = context.fillStyle = colourOf("--soft");
    context.lineWidth = devicePixelRatio;
    context.font = `${11 * devicePixelRatio}px system-ui`;
    [0, 1, 2].forEach((d) => {
      const end = turn([0, 1, 2].map((e) => (d === e ? 0.85 * view.limits[2] : 0)));
      context.beginPath();
      context.moveTo(frame.x(0), frame.y(0));
      context.lineTo(frame.x(end[0]), frame.y(end[1]));
      context.stroke();
      context.fillText(view.short[d], frame.x(end[0]), frame.y(end[1]));
    });
  }
  function words(context, view) {
    if (view.kind !== "linear") return;
    context.font = `${11 * devicePixelRatio}px system-ui`;
    context.fillStyle = colourOf("--soft");
    const margin = 8 * devicePixelRatio;
    context.textAlign = "right";
    context.fillText(`${view.axes[0]} →`, frame.size - margin, frame.size - margin);
    context.textAlign = "start";
    if (view.axes[1]) context.fillText(`↑ ${view.axes[1]}`, margin, 2 * margin);
  }
  function pointer(context, view, turn) {
    const at = (z) => (view.kind === "map" ? places[closest(z)] : turn(project(view, z)));
    const mark = (z, text) => {
      const [x, y = 0] = at(z); // of one dimension there is no second
      context.lineWidth = 2.5 * devicePixelRatio;
      for (const [colour, more] of [["--paper", 2], ["--ink", 0]]) {
        context.strokeStyle = colourOf(colour);
        context.beginPath();
        context.arc(frame.x(x), frame.y(y), (7 + more) * devicePixelRatio, 0, 7);
        context.stroke();
      }
      context.font = `700 ${13 * devicePixelRatio}px system-ui`;
      context.fillStyle = colourOf("--ink");
      if (text) context.fillText(text, frame.x(x) + 10 * devicePixelRatio, frame.y(y) - 10 * devicePixelRatio);
    };
    if (ends.a) mark(ends.a.z, "A");
    if (ends.b) mark(ends.b.z, "B");
    if (data.networks.decode) mark(state.z, "");
  }
  function closest(z) {
    let best = 0;
    let least = Infinity;
    for (let i = 0; i < count; i++) {
      let sum = 0;
      for (let d = 0; d < dims; d++) sum += (all[i * dims + d] - z[d]) ** 2;
      if (sum < least) [best, least] = [i, sum];
    }
    return best;
  }

  // ---- pointing: dragging moves z, or turns the space; hovering tells of the nearest point ----

  const pixel = (event) => {
    const box = plane.getBoundingClientRect();
    const ratio = frame.size / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  };
  const hit = ([x, y], reach) => {
    let best = -1;
    let least = (reach * devicePixelRatio) ** 2;
    places.forEach((place, i) => {
      if (state.alone !== null && data.labels[i] !== state.alone) return;
      const distance = (frame.x(place[0]) - x) ** 2 + (frame.y(place[1]) - y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return best;
  };
  function moveTo([x, y]) {
    const view = views[state.view];
    if (view.kind !== "linear") {
      const i = hit([x, y], Infinity);
      if (i >= 0) go(i);
      return;
    }
    const target = [view.limits[0] + (x - frame.size / 2) / frame.unit, view.limits[1] - (y - frame.size / 2) / frame.unit];
    const now = project(view, state.z);
    const z = Float32Array.from(state.z);
    view.basis.forEach((axis, k) => axis.forEach((b, d) => (z[d] += (target[k] - now[k]) * b)));
    set(z);
  }
  function go(i) {
    if (data.conditional && data.labels[i] >= 0) chooseLabel(data.labels[i]);
    set(zOf(i));
  }

  // The nearest other point on a map in a direction, nearer to it than to those beside it
  function beside(from, [right, up]) {
    let best = -1;
    let least = Infinity;
    places.forEach(([x, y], i) => {
      const [dx, dy] = [x - places[from][0], y - places[from][1]];
      const along = right * dx + up * dy;
      const distance = dx * dx + dy * dy;
      if (along > 0 && 2 * along * along >= distance && distance < least) [best, least] = [i, distance];
    });
    return best;
  }

  let dragging = null;
  plane.addEventListener("pointerdown", (event) => {
    if (event.button || !event.isPrimary) return;
    plane.setPointerCapture(event.pointerId);
    dragging = pixel(event);
    leave();
    if (views[state.view].kind !== "turning") moveTo(dragging);
    event.preventDefault();
    plane.focus({ preventScroll: true });
  });
  plane.addEventListener("pointermove", (event) => {
    const at = pixel(event);
    if (!dragging) return hover(event, hit(at, 12));
    if (views[state.view].kind === "turning") {
      state.angle[0] -= (at[0] - dragging[0]) / (0.3 * frame.size);
      state.angle[1] = Math.min(1.5, Math.max(-1.5, state.angle[1] + (at[1] - dragging[1]) / (0.4 * frame.size)));
      dragging = at;
      draw();
    } else moveTo(at);
  });
  for (const end of ["pointerup", "pointercancel"]) plane.addEventListener(end, () => (dragging = null));
  plane.addEventListener("pointerleave", () => dragging || leave());
  plane.addEventListener("dblclick", (event) => { const i = hit(pixel(event), 16); if (i >= 0) go(i); });
  plane.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const view = views[state.view];
    if (view.kind === "turning") {
      state.angle = [state.angle[0] - 0.1 * step[0], Math.min(1.5, Math.max(-1.5, state.angle[1] + 0.1 * step[1]))];
      return draw();
    }
    if (view.kind === "map") {
      const i = beside(closest(state.z), step);
      if (i >= 0) go(i);
      return;
    }
    const size = event.shiftKey ? 0.5 : 0.1;
    const z = Float32Array.from(state.z);
    view.basis.forEach((axis, k) => axis.forEach((b, d) => (z[d] += size * step[k] * b)));
    set(z);
  });

  const SIDE = 84;
  let hovered = -1;
  let latestMove = null;
  let computing = false;
  function leave() {
    hovered = -1;
    hideTip();
  }
  async function hover(event, i) {
    latestMove = event;
    if (i === hovered && i >= 0 && tip.style.display !== "none") return tipAt(event);
    hovered = i;
    if (i < 0) return hideTip();
    tip.replaceChildren();
    const canvas = tip.appendChild(document.createElement("canvas"));
    thumbnail(canvas, i, SIDE);
    const again = document.createElement("canvas");
    if (data.networks.decode) {
      tip.append(again);
      [again.width, again.height] = [width, height];
      again.style.width = canvas.style.width;
    }
    const told = tip.appendChild(document.createElement("div"));
    told.textContent = [nameOf(i), `−ELBO ${data.loss[i].toLocaleString("en")} nats`].filter(Boolean).join(" · ").replace("−ELBO -", "−ELBO −");
    if (data.networks.decode) told.append(document.createElement("br"), "test image, and its reconstruction");
    tipAt(event);
    if (!data.networks.decode) return;
    const [inputs, shapes] = [[zOf(i)], [[1, ...data.latent]]];
    const labelled = data.conditional ? [[...inputs, [data.labels[i]]], [...shapes, [1]]] : [inputs, shapes];
    if (computing) return; // the latest is decoded once that one is there
    computing = true;
    const image = await compute("decode", ...labelled);
    computing = false;
    if (hovered === i) return paint(again, image);
    const latest = hovered;
    hovered = -1;
    if (latest >= 0) hover(latestMove, latest);
  }

  // ---- buttons and sliders -------------------------------------------------------------------

  function choice(box, text, pressed, chosen) {
    const button = box.appendChild(document.createElement("button"));
    button.type = "button";
    button.append(text);
    button.setAttribute("aria-pressed", pressed);
    button.addEventListener("click", () => chosen(button));
    return button;
  }
  const press = (box, pressed) => nodes("button", box).forEach((b, k) => b.setAttribute("aria-pressed", k === pressed));

  const HINTS = {
    linear: `Drag, or press the arrow keys: z moves along this plane${dims > 2 ? ", and stays as it is across it" : ""}.`,
    turning: "Drag, or press the arrow keys, to turn the space. Double-click a point to go to it.",
    map: "No z belongs to a place between the points here: dragging goes to the nearest point, an arrow key to the next one.",
  };
  function tellHint() {
    const { kind } = views[state.view];
    const circles = circled && kind === "linear" ? ` Dashed: the prior at 1, 2 and 3 σ${dims > 2 ? ", of which the plane is a section" : ""}.` : "";
    const lines = dense.length && kind === "linear" ? " Dashed: where the prior is densest, as much of it inside as 1, 2 and 3 σ hold of a Gaussian." : "";
    part("hint").textContent = (data.networks.decode ? HINTS[kind] : "") + circles + lines;
  }
  tellHint();

  if (views.length > 1) {
    views.forEach((view, k) => choice(part("views"), view.name, k === 0, () => {
      state.view = k;
      press(part("views"), k);
      tellHint();
      hideTip();
      draw();
    }));
  }
  data.names.slice(0, 40).forEach((name, k) => {
    const dot = document.createElement("i");
    dot.style.setProperty("--colour", data.colours[k]);
    const button = choice(part("classes"), dot, false, () => {
      state.alone = state.alone === k ? null : k;
      if (state.alone === null) delete document.body.dataset.alone;
      else document.body.dataset.alone = k;
      press(part("classes"), state.alone === null ? -1 : k);
      document.dispatchEvent(new CustomEvent("alone"));
    });
    button.className = "chip";
    button.append(name);
  });
  document.addEventListener("alone", draw);
  function chooseLabel(k) {
    state.label = k;
    press(part("labels"), k);
  }
  if (decodesAs) {
    part("labels").hidden = false;
    part("labels").append("Decode as");
    data.names.forEach((name, k) => choice(part("labels"), name, k === 0, () => { chooseLabel(k); set(state.z); }));
  }

  const sliders = data.dims.map(([d, name]) => {
    const label = part("dims").appendChild(document.createElement("label"));
    label.textContent = name;
    label.htmlFor = `dim-${d}`;
    const input = part("dims").appendChild(document.createElement("input"));
    Object.assign(input, { type: "range", id: `dim-${d}`, min: -4, max: 4, step: 0.01 });
    const output = part("dims").appendChild(document.createElement("output"));
    output.setAttribute("aria-live", "off");
    input.addEventListener("input", () => {
      const z = Float32Array.from(state.z);
      z[d] = Number(input.value);
      set(z);
    });
    return () => {
      input.value = state.z[d];
      output.textContent = number(state.z[d]);
    };
  });
  if (!data.networks.decode) part("dims").hidden = true;

  const ends = {};
  const walk = part("walk");
  const between = (t) => Float32Array.from(ends.a.z, (a, d) => (1 - t) * a + t * ends.b.z[d]);
  for (const name of ["a", "b"]) {
    part(name).addEventListener("click", () => {
      ends[name] = { z: Float32Array.from(state.z) };
      const ready = Boolean(ends.a && ends.b);
      walk.disabled = part("stroll").disabled = !ready;
      walk.value = name === "b" ? 1 : 0;
      draw();
    });
  }
  walk.addEventListener("input", () => ++strolls && set(between(Number(walk.value)), { keepWalk: true }));
  let strolls = 0;
  part("stroll").addEventListener("click", () => {
    const stroll = ++strolls;
    let began;
    const step = (now) => {
      if (stroll !== strolls) return;
      began ??= now;
      const t = Math.min(1, (now - began) / 2500);
      walk.value = t;
      set(between(t), { keepWalk: true });
      if (t < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  });

  // ---- an image of one's own -----------------------------------------------------------------

  // A pixel as in training: one or zero, above the threshold or drawn with it as the probability
  function bit(value) {
    if (data.binarisation === "none") return value;
    return value >= (data.binarisation === "threshold" ? 128 / 255 : Math.random()) ? 1 : 0;
  }
  let own = null;
  async function encode(file) {
    own = file;
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      part("where").textContent = `${file.name} is not an image that can be read here`;
      return;
    }
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const side = data.crop ? Math.min(data.crop * bitmap.width, bitmap.height) : 0; // of the square that images of the training were cut to
    const [wide, high] = side ? [side, side] : [bitmap.width, bitmap.height];
    const times = Math.max(width / wide, height / high);
    context.imageSmoothingQuality = "high";
    context.fillStyle = "white"; // under transparent pixels, as in training
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, (width - times * bitmap.width) / 2, (height - times * bitmap.height) / 2, times * bitmap.width, times * bitmap.height);
    const { data: rgba } = context.getImageData(0, 0, width, height);
    const area = width * height;
    const x = new Float32Array(channels * area);
    for (let i = 0; i < area; i++) {
      const rgb = [0, 1, 2].map((c) => rgba[4 * i + c] / 255);
      const values = channels === 1 ? [0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]] : rgb;
      for (let c = 0; c < channels; c++) x[c * area + i] = bit(part("invert").checked ? 1 - values[c] : values[c]);
    }
    set(await compute("encode", ...withLabel([x], [[1, ...data.shape]])));
  }
  if (data.networks.encode) {
    part("file").addEventListener("change", () => part("file").files[0] && encode(part("file").files[0]));
    part("invert").addEventListener("change", () => own && encode(own));
    root.addEventListener("dragover", (event) => { event.preventDefault(); root.classList.add("dropping"); });
    root.addEventListener("dragleave", () => root.classList.remove("dropping"));
    root.addEventListener("drop", (event) => {
      event.preventDefault();
      root.classList.remove("dropping");
      if (event.dataTransfer.files[0]) encode(event.dataTransfer.files[0]);
    });
  }

  isDark.addEventListener("change", draw);
  new ResizeObserver(draw).observe(plane);
  sprite.decode().then(nearest, () => {});
  set(data.conditional || !count ? state.z : zOf(0));
}
