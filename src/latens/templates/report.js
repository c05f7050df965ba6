// Hovering a latent plane shows the image of the nearest point, and hovering images decoded from a
// plane the coordinates of each. A tap does the same.
"use strict";
const NEAR = 24; // screen pixels from a point at which it is shown
const SHOWN = 112; // screen pixels of an image

const tip = document.body.appendChild(document.createElement("div"));
tip.className = "tip";
tip.setAttribute("role", "status");
const canvas = tip.appendChild(document.createElement("canvas"));
const words = tip.appendChild(document.createElement("div"));

function show(event, source, x, y, width, height, text) {
  const scale = Math.max(1, Math.floor(SHOWN / Math.max(width, height)));
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(source, x, y, width, height, 0, 0, canvas.width, canvas.height);
  words.textContent = text;
  tip.style.display = "block";
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 18 + box.width > innerWidth ? event.clientX - 18 - box.width : event.clientX + 18;
  const top = Math.min(innerHeight - box.height - 4, Math.max(4, event.clientY - box.height / 2));
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = top + "px";
}

const number = (value) => value.toFixed(2).replace("-", "−");
const coordinates = (axes, values) => axes.map((axis, i) => `${axis} ${number(values[i])}`).join(", ");

function overPlane(stage, about) {
  const ring = stage.appendChild(document.createElement("i"));
  ring.className = "ring";
  const sprite = new Image();
  sprite.src = about.sprite;
  const [x0, y0, x1, y1] = about.box;
  const [left, right, bottom, top] = about.limits;
  // Each point as a share of the picture's width and height
  const places = about.points.map(([x, y]) => [
    x0 + ((x - left) / (right - left)) * (x1 - x0),
    y1 - ((y - bottom) / (top - bottom)) * (y1 - y0),
  ]);
  return (event, frame) => {
    let nearest = -1;
    let least = NEAR;
    places.forEach(([x, y], i) => {
      const distance = Math.hypot(frame.left + x * frame.width - event.clientX, frame.top + y * frame.height - event.clientY);
      if (distance < least) [nearest, least] = [i, distance];
    });
    if (nearest < 0) return false;
    const [width, height] = about.side;
    const column = nearest % about.columns;
    const row = Math.floor(nearest / about.columns);
    const label = about.names[about.labels[nearest]];
    const [x, y] = about.points[nearest];
    const where = coordinates(about.axes, [x, y]);
    show(event, sprite, column * width, row * height, width, height, label === undefined ? where : `${label} · ${where}`);
    ring.style.display = "block";
    ring.style.left = places[nearest][0] * 100 + "%";
    ring.style.top = places[nearest][1] * 100 + "%";
    return true;
  };
}

function overLattice(stage, about) {
  const image = stage.querySelector("img");
  const [x0, y0, x1, y1] = about.box;
  return (event, frame) => {
    const x = ((event.clientX - frame.left) / frame.width - x0) / (x1 - x0);
    const y = ((event.clientY - frame.top) / frame.height - y0) / (y1 - y0);
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return false;
    const column = Math.floor(x * about.x.length);
    const row = Math.floor(y * about.y.length);
    const width = ((x1 - x0) * image.naturalWidth) / about.x.length;
    const height = ((y1 - y0) * image.naturalHeight) / about.y.length;
    const left = x0 * image.naturalWidth + column * width;
    const top = y0 * image.naturalHeight + row * height;
    show(event, image, left, top, width, height, coordinates(about.axes, [about.x[column], about.y[row]]));
    return true;
  };
}

for (const stage of document.querySelectorAll(".stage")) {
  const about = JSON.parse(document.querySelector(`script[data-for="${CSS.escape(stage.dataset.hover)}"]`).textContent);
  const over = about.points ? overPlane(stage, about) : overLattice(stage, about);
  const hide = () => {
    tip.style.display = "none";
    const ring = stage.querySelector(".ring");
    if (ring) ring.style.display = "none";
  };
  stage.addEventListener("pointermove", (event) => {
    if (!over(event, stage.getBoundingClientRect())) hide();
  });
  stage.addEventListener("pointerdown", (event) => over(event, stage.getBoundingClientRect()) || hide());
  addEventListener("scroll", hide, { passive: true });
  document.addEventListener("pointerdown", (event) => stage.contains(event.target) || hide());
  stage.addEventListener("pointerleave", (event) => event.pointerType === "touch" || hide());
}
