// Films: every [data-film=G] shows frame --f of its sprite, and a player moves all films of its
// group at once. Also what is drawn here because it follows the frame: the latent plane of a
// training, and the cursor on its curves. Hovering images decoded from a plane tells coordinates.
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const nodes = (selector, within = document) => [...within.querySelectorAll(selector)];

class Player {
  constructor(bar) {
    this.group = bar.dataset.player;
    this.films = nodes(`[data-film="${CSS.escape(this.group)}"]`);
    this.steps = JSON.parse(bar.dataset.steps);
    this.seconds = Number(bar.dataset.seconds);
    this.endless = "endless" in bar.dataset;
    bar.innerHTML = `<button type="button" aria-label="Play">▶</button>
      <button type="button" aria-label="One step back">‹</button>
      <input type="range" min="0" max="${this.steps.length - 1}" step="1">
      <button type="button" aria-label="One step on">›</button><output aria-live="off"></output>`;
    [this.toggle, this.back, this.on] = nodes("button", bar);
    this.slider = bar.querySelector("input");
    this.output = bar.querySelector("output");
    this.slider.setAttribute("aria-label", "Frame");
    this.slider.addEventListener("input", () => { this.stop(); this.show(Number(this.slider.value)); });
    this.back.addEventListener("click", () => { this.stop(); this.show(Math.max(0, this.frame - 1)); });
    this.on.addEventListener("click", () => { this.stop(); this.show(Math.min(this.steps.length - 1, this.frame + 1)); });
    this.toggle.addEventListener("click", () => (this.timer ? this.stop() : this.play()));
    this.show(bar.classList.contains("all") ? this.steps.length - 1 : 0);
    if (bar.classList.contains("all")) this.comeAndGo(bar);
    else if (!calm.matches) this.playWhenSeen(bar);
    calm.addEventListener("change", () => this.stop());
  }
  show(frame) {
    this.frame = frame;
    this.slider.value = frame;
    this.slider.setAttribute("aria-valuetext", this.steps[frame]);
    this.output.textContent = this.steps[frame];
    for (const film of this.films) film.style.setProperty("--f", frame);
    document.dispatchEvent(new CustomEvent("frame", { detail: this }));
  }
  play() {
    this.toggle.textContent = "❚❚";
    this.toggle.setAttribute("aria-label", "Pause");
    const last = this.steps.length - 1;
    if (this.frame === last) this.show(0);
    const next = () => {
      if (this.frame === last && !this.endless) return this.stop();
      this.show(this.frame === last ? 0 : this.frame + 1);
      this.timer = setTimeout(next, 1000 * this.seconds);
    };
    this.timer = setTimeout(next, 1000 * this.seconds);
  }
  stop() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.toggle.textContent = "▶";
    this.toggle.setAttribute("aria-label", "Play");
  }
  // The bar of a group is there while one of its films is in sight
  comeAndGo(bar) {
    const seen = new Set();
    const watch = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) isIntersecting ? seen.add(target) : seen.delete(target);
      bar.classList.toggle("near-by", seen.size > 0);
    });
    this.films.forEach((film) => watch.observe(film));
  }
  playWhenSeen() {
    let begun = false;
    const watch = new IntersectionObserver(([{ isIntersecting }]) => {
      if (!isIntersecting) return this.stop();
      if (!begun) this.play();
      begun = true;
    }, { threshold: 0.6 });
    watch.observe(this.films[0]);
  }
}

const about = (figure) => JSON.parse(figure.querySelector("script[type='application/json']")?.textContent ?? "null");
const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isDark = matchMedia("(prefers-color-scheme: dark)");
const unpackFloats = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

// A class's colour, lighter on dark paper
function shade(colour) {
  if (!isDark.matches) return colour;
  const parts = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgb(${parts.map((v) => Math.round(v + 0.42 * (255 - v))).join(",")})`;
}

// The name of each class at the median of its points: none is told by its colour alone
function nameClasses(context, pixels, labels, names, alone) {
  context.globalAlpha = 1;
  context.font = `600 ${12 * devicePixelRatio}px system-ui`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  names.slice(0, 20).forEach((name, k) => {
    const own = pixels.filter((_, i) => labels[i] === k);
    if (!own.length || (alone !== null && alone !== k)) return;
    const median = (d) => own.map((p) => p[d]).sort((a, b) => a - b)[own.length >> 1];
    const text = name.length > 14 ? `${name.slice(0, 13)}…` : name;
    context.lineWidth = 4 * devicePixelRatio;
    context.strokeStyle = colourOf("--paper");
    context.strokeText(text, median(0), median(1));
    context.fillStyle = colourOf("--ink");
    context.fillText(text, median(0), median(1));
  });
  context.textAlign = "start";
  context.textBaseline = "alphabetic";
}

// The latent plane of a training: points of each frame, in the same limits
function latentFilm(figure, data) {
  const canvas = figure.querySelector("canvas");
  const points = data.points.map(unpackFloats);
  const [left, right, bottom, top] = data.limits;
  let frame = points.length - 1;
  function draw() {
    const size = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    const unit = size / Math.max(right - left, top - bottom);
    const [middleX, middleY] = [(left + right) / 2, (bottom + top) / 2];
    const place = (x, y) => [size / 2 + (x - middleX) * unit, size / 2 - (y - middleY) * unit];
    if (data.prior) {
      context.strokeStyle = colourOf("--soft");
      context.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
      for (const sigma of [1, 2, 3]) {
        context.beginPath();
        context.arc(...place(...data.prior), sigma * unit, 0, 7);
        context.stroke();
      }
      context.setLineDash([]);
    }
    const alone = data.names.length && "alone" in document.body.dataset ? Number(document.body.dataset.alone) : null;
    const at = points[frame];
    const pixels = [];
    for (let i = 0; i < at.length / 2; i++) {
      const label = data.labels[i];
      context.globalAlpha = alone === null || alone === label ? 0.8 : 0.07;
      context.fillStyle = label < 0 ? colourOf("--mark") : shade(data.colours[label % data.colours.length]);
      context.beginPath();
      pixels.push(place(at[2 * i], at[2 * i + 1]));
      context.arc(...pixels[i], 2.6 * devicePixelRatio, 0, 7);
      context.fill();
    }
    nameClasses(context, pixels, data.labels, data.names, alone);
    context.font = `${11 * devicePixelRatio}px system-ui`;
    context.fillStyle = colourOf("--soft");
    context.fillText(`↑ ${data.axes[1]}`, 8 * devicePixelRatio, 16 * devicePixelRatio);
    context.textAlign = "right";
    context.fillText(`${data.axes[0]} →`, size - 8 * devicePixelRatio, size - 8 * devicePixelRatio);
    context.textAlign = "start";
  }
  document.addEventListener("frame", ({ detail }) => {
    if (detail.group !== figure.dataset.film) return;
    frame = detail.frame;
    draw();
  });
  document.addEventListener("alone", draw);
  isDark.addEventListener("change", draw);
  new ResizeObserver(draw).observe(canvas.parentElement);
}

// A line on each curve at the epoch that the films show
function cursors(figure, data) {
  const svg = figure.querySelector("svg");
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const lines = data.cursors.map(({ box: [x0, y0, x1, y1], limits: [low, high] }) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "cursor");
    line.setAttribute("y1", y0 * height);
    line.setAttribute("y2", y1 * height);
    line.style.display = "none"; // until a film tells its frame
    svg.append(line);
    return (epoch) => {
      const x = (x0 + ((epoch - low) / (high - low)) * (x1 - x0)) * width;
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      line.style.display = epoch < low || epoch > high ? "none" : "";
    };
  });
  document.addEventListener("frame", ({ detail }) => {
    if (detail.group !== data.group) return;
    const epoch = Number(detail.steps[detail.frame].replace(/\D+/g, ""));
    for (const move of lines) move(epoch);
  });
}

// Coordinates of the image under the pointer
const tip = document.body.appendChild(document.createElement("div"));
tip.className = "tip";
tip.setAttribute("role", "status");
function tipAt(event) {
  tip.style.display = "block";
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 18 + box.width > innerWidth ? event.clientX - 18 - box.width : event.clientX + 18;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.min(innerHeight - box.height - 4, Math.max(4, event.clientY - box.height / 2))}px`;
}
const hideTip = () => (tip.style.display = "none");
const number = (value) => value.toFixed(2).replace("-", "−");

function lattice(figure, data) {
  const cell = figure.querySelector(".cell");
  const show = (event) => {
    const box = cell.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * data.x.length);
    const row = Math.floor(((event.clientY - box.top) / box.height) * data.y.length);
    if (data.x[column] === undefined || data.y[row] === undefined) return hideTip();
    const values = [data.x[column], data.y[row]];
    tip.textContent = data.axes.map((axis, i) => `${axis} ${number(values[i])}`).join(", ");
    tipAt(event);
  };
  cell.addEventListener("pointermove", show);
  cell.addEventListener("pointerdown", show);
  cell.addEventListener("pointerleave", (event) => event.pointerType === "touch" || hideTip());
}

addEventListener("scroll", hideTip, { passive: true });
for (const figure of nodes("figure")) {
  const data = about(figure);
  if (!data) continue;
  if (data.drawn === "latents") latentFilm(figure, data);
  if (data.cursors) cursors(figure, data);
  if (data.x) lattice(figure, data);
}
nodes("[data-player]").forEach((bar) => new Player(bar));

// A class that stands alone, everywhere on the page
document.addEventListener("alone", () => {
  const alone = document.body.dataset.alone;
  for (const node of nodes("[data-class]")) {
    const away = alone !== undefined && node.dataset.class !== alone;
    node.classList.toggle("away", away);
    if (node.classList.contains("row")) {
      for (let cell = node.nextElementSibling; cell?.classList.contains("cell"); cell = cell.nextElementSibling) cell.classList.toggle("away", away);
    }
  }
});

// Contents: the chapter in sight
const links = new Map(nodes("nav.contents a").map((a) => [a.getAttribute("href").slice(1), a]));
const chapters = nodes("h2[id]");
const mark = () => {
  const now = chapters.filter((h) => h.getBoundingClientRect().top < innerHeight / 3).pop();
  links.forEach((a, id) => (now && id === now.id ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current")));
};
addEventListener("scroll", mark, { passive: true });
const fold = document.querySelector("nav.contents details");
const wide = matchMedia("(min-width: 82rem)");
const foldOrNot = () => (fold.open = wide.matches);
wide.addEventListener("change", foldOrNot);
links.forEach((a) => a.addEventListener("click", foldOrNot));
foldOrNot();
