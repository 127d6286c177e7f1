// The picture with its objects, boxes and clicks: draws `props.value`, and reports what the user draws and clicks as the
// events 'drawn' {box, positive} and 'pointed' {x, y, positive, number}. All coordinates are pixels of the picture.
const svg = element.querySelector("svg");
const frame = element.querySelector(".s3-frame");
const tip = element.querySelector(".s3-tip");
const hint = element.querySelector(".s3-hint");
const tools = [...element.querySelectorAll("[data-tool]")];
const HINTS = {
  select: "Point at an object for its name and score; click to select it. Keys: Tab goes from object to object.",
  like: "Drag a box around an example, or click two opposite corners. Keys: arrows move the cross, Enter sets a corner.",
  unlike: "Drag a box around what is not meant, or click two opposite corners. Keys: arrows move the cross, Enter sets a corner.",
  add: "Click what belongs to the selected object. Keys: arrows move the cross, Enter clicks.",
  cut: "Click what does not belong to the selected object. Keys: arrows move the cross, Enter clicks.",
};
const state = { tool: "select", selected: null, corner: null, cross: null, drag: null };

function make(name, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.appendChild(node);
  return node;
}

function say(text) {
  hint.textContent = text;
}

function isBoxTool() {
  return state.tool === "like" || state.tool === "unlike";
}

function choose(tool) {
  state.tool = tool;
  state.corner = null;
  for (const button of tools) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  frame.dataset.tool = tool;
  say(HINTS[tool]);
  draw();
}

// ---- drawing ----

function draw() {
  const value = props.value;
  svg.replaceChildren();
  tip.hidden = true;
  if (!value || !value.picture) return;
  const unit = Math.max(value.width, value.height) / 100;
  svg.setAttribute("viewBox", "0 0 " + value.width + " " + value.height);
  svg.setAttribute("aria-label", value.alt + " Arrow keys move a cross, Enter acts there.");
  frame.style.setProperty("--s3-ratio", value.width / value.height);
  const size = { width: value.width, height: value.height };
  make("image", { href: value.picture.url, ...size, "aria-hidden": "true" }, svg);
  const large = (one) => (one.box[2] - one.box[0]) * (one.box[3] - one.box[1]);
  for (const one of [...value.objects].sort((a, b) => large(b) - large(a))) drawObject(one, unit);
  for (const one of value.boxes) drawBox(one.box, one.positive, one.phrase);
  for (const one of value.clicks) drawClick(one, unit);
  drawAim(unit);
}

function drawObject(one, unit) {
  const name = one.label + ", score " + one.score.toFixed(2) + (one.refined ? ", refined" : "");
  const isSelected = one.number === state.selected;
  const group = make("g", {
    class: "s3-object" + (isSelected ? " s3-selected" : ""),
    tabindex: "0",
    role: "button",
    "aria-pressed": String(isSelected),
    "aria-label": "Object " + one.number + ": " + name,
    "data-number": one.number,
    style: "--s3-color:" + one.color,
  }, svg);
  make("path", { class: "s3-halo", d: one.path, "fill-rule": "evenodd" }, group);
  make("path", { class: "s3-body", d: one.path, "fill-rule": "evenodd" }, group);
  const label = make("g", { class: "s3-number", "aria-hidden": "true" }, group);
  const text = String(one.number), width = (1.3 + 1.7 * text.length) * unit, height = 3.6 * unit;
  const x = Math.min(Math.max(0, one.box[0]), props.value.width - width);
  const y = Math.max(0, one.box[1] - height);
  make("rect", { x, y, width, height, rx: 0.6 * unit }, label);
  make("text", { x: x + width / 2, y: y + 0.76 * height, "font-size": 2.9 * unit }, label).textContent = text;
  group.addEventListener("pointerenter", () => show(one, name));
  group.addEventListener("pointerleave", () => (tip.hidden = true));
  group.addEventListener("focus", () => show(one, name));
  group.addEventListener("blur", () => (tip.hidden = true));
}

function drawBox(box, positive, phrase) {
  const [x, y] = box;
  const place = { x, y, width: box[2] - x, height: box[3] - y };
  const group = make("g", { class: positive ? "s3-box s3-like" : "s3-box s3-unlike" }, svg);
  make("title", {}, group).textContent = (positive ? "like this" : "not this") + (phrase ? ": " + phrase : "");
  make("rect", { class: "s3-halo", ...place }, group);
  make("rect", { class: "s3-line", ...place }, group);
}

function drawClick(one, unit) {
  const group = make("g", { class: one.positive ? "s3-click s3-like" : "s3-click s3-unlike" }, svg);
  make("circle", { cx: one.x, cy: one.y, r: 1.3 * unit }, group);
  const arm = 0.8 * unit;
  let d = "M" + (one.x - arm) + " " + one.y + "h" + 2 * arm;
  if (one.positive) d += "M" + one.x + " " + (one.y - arm) + "v" + 2 * arm;
  make("path", { d }, group);
}

function drawAim(unit) {
  const at = state.drag ? state.drag.now : state.cross;
  const from = state.drag ? state.drag.from : state.corner;
  if (from && at) drawBox(ordered(from, at), state.tool === "like", null);
  for (const point of [state.corner, state.drag ? null : state.cross]) {
    if (!point) continue;
    const d = "M" + (point.x - 2 * unit) + " " + point.y + "h" + 4 * unit + "M" + point.x + " " + (point.y - 2 * unit) + "v" + 4 * unit;
    make("path", { class: "s3-cross s3-halo", d }, svg);
    make("path", { class: "s3-cross", d }, svg);
  }
}

function show(one, name) {
  tip.textContent = one.number + "  " + name;
  tip.style.setProperty("--s3-color", one.color);
  tip.style.left = (100 * Math.min(one.box[0] / props.value.width, 0.6)) + "%";
  tip.style.top = (100 * Math.min(one.box[3] / props.value.height, 0.9)) + "%";
  tip.hidden = false;
}

// ---- acting ----

function ordered(a, b) {
  return [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
}

function place(event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return inside(point);
}

function inside(point) {
  const { width, height } = props.value;
  return { x: Math.min(Math.max(point.x, 0), width - 0.01), y: Math.min(Math.max(point.y, 0), height - 0.01) };
}

function finish(a, b) {
  state.corner = state.cross = state.drag = null;
  const box = ordered(a, b);
  draw();
  if (box[2] - box[0] < 1 || box[3] - box[1] < 1) return say("That box has no area; draw a larger one.");
  say(HINTS[state.tool]);
  trigger("drawn", { box, positive: state.tool === "like" });
}

function act(point, number) {
  if (isBoxTool()) {
    if (state.corner) return finish(state.corner, point);
    state.corner = point;
    say("First corner set; now the opposite one. Escape takes it back.");
    return draw();
  }
  if (state.tool === "select") {
    state.selected = number === state.selected ? null : number;
    const one = props.value.objects.find((found) => found.number === state.selected);
    say(one ? "Selected object " + one.number + ", " + one.label + ". Now choose “+ Click: add” or “− Click: cut”." : HINTS.select);
    return draw();
  }
  if (state.selected === null && !props.value.free) {
    if (number === null) return say("Choose the object first: click it, or press Tab until you are on it and then Enter.");
    state.selected = number;
  }
  trigger("pointed", { x: point.x, y: point.y, positive: state.tool === "add", number: state.selected });
}

function numberAt(target) {
  const group = target.closest(".s3-object");
  return group ? Number(group.dataset.number) : null;
}

svg.addEventListener("pointerdown", (event) => {
  if (!props.value || !props.value.picture || event.button !== 0) return;
  const point = place(event);
  state.drag = { from: point, now: point, x: event.clientX, y: event.clientY, moved: false, number: numberAt(event.target) };
  if (isBoxTool()) svg.setPointerCapture(event.pointerId);
});

svg.addEventListener("pointermove", (event) => {
  const drag = state.drag;
  if (!drag || !isBoxTool()) return;
  drag.moved = drag.moved || Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 5;
  if (!drag.moved) return;
  drag.now = place(event);
  draw();
});

svg.addEventListener("pointerup", (event) => {
  const drag = state.drag;
  state.drag = null;
  if (!drag) return;
  if (drag.moved) return finish(drag.from, place(event));
  act(drag.from, drag.number);
});

svg.addEventListener("pointercancel", () => {
  state.drag = null;
  draw();
});

svg.addEventListener("keydown", (event) => {
  const value = props.value;
  if (!value || !value.picture) return;
  const step = value.width / (event.shiftKey ? 200 : 40);
  const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (ways[event.key]) {
    const at = state.cross || { x: value.width / 2, y: value.height / 2 };
    state.cross = inside({ x: at.x + ways[event.key][0], y: at.y + ways[event.key][1] });
    if (event.target !== svg) svg.focus();
    draw();
  } else if (event.key === "Enter" || event.key === " ") {
    const number = numberAt(event.target);
    if (number !== null) {
      state.selected = number;
      say("Selected object " + number + ".");
      draw();
      const again = svg.querySelector('[data-number="' + number + '"]');
      if (again) again.focus();
    } else {
      act(state.cross || { x: value.width / 2, y: value.height / 2 }, null);
    }
  } else if (event.key === "Escape") {
    state.corner = state.cross = state.drag = state.selected = null;
    say(HINTS[state.tool]);
    draw();
  } else {
    return;
  }
  event.preventDefault();
});

for (const button of tools) button.addEventListener("click", () => choose(button.dataset.tool));

watch("value", () => {
  const value = props.value;
  if (value && value.selected !== undefined) state.selected = value.selected;
  if (value && !value.free && !value.objects.some((one) => one.number === state.selected)) state.selected = null;
  draw();
});

choose("select");
