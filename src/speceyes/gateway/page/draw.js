// Elements and numbers: whatever is shown is put into text nodes and attributes, never parsed.
const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// A drawing as wide as its place, so that letters keep their size; `draw(add, width)`.
export function plot(place, height, label, draw) {
  const width = Math.max(240, place.clientWidth);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
  draw((name, attributes, ...children) => {
    const made = shape(name, attributes, ...children);
    svg.append(made);
    return made;
  }, width);
  place.replaceChildren(svg);
}

export function nothing(place, words) {
  place.replaceChildren(element("p", { class: "empty" }, words));
}

export function count(value) {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, ",");
}

export function short(value) {
  if (value >= 1e9) return `${(value / 1e9).toFixed(1)} G`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  return value >= 1e4 ? `${(value / 1e3).toFixed(1)} k` : count(value);
}

export function share(value) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(value > 0.995 && value < 1 ? 1 : 0)} %`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.001) return `${(1000 * value).toFixed(2)} ms`;
  if (value < 0.01) return `${(1000 * value).toFixed(1)} ms`;
  if (value < 1) return `${(1000 * value).toFixed(0)} ms`;
  return value < 100 ? `${value.toFixed(value < 10 ? 2 : 1)} s` : `${value.toFixed(0)} s`;
}

export function times(value) {
  return value === null || value === undefined ? "–" : `${value.toFixed(2)}×`;
}

export function score(value, scale) {
  return value === null || value === undefined ? "–" : value.toFixed(scale === "share" ? 3 : 2);
}

export function span(value) {
  const minutes = Math.floor(value / 60);
  if (minutes < 1) return `${Math.floor(value)} s`;
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

export function words(name) {
  return String(name).replaceAll("_", " ");
}
