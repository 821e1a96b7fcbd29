// The last requests: a line each, and on demand the way each one took.
import { count, element, plot, score, seconds, shape, words } from "./draw.js";

const BAD = new Set(["degraded", "refused", "failed", "cancelled"]);
const ROW = 22;

export function showRequests(list, wanted) {
  const ids = new Set(wanted.map(keyOf));
  const here = new Map([...list.children].map((item) => [item.dataset.key, item]));
  for (const [key, item] of here) if (!ids.has(key)) item.remove();
  let before = list.firstElementChild;
  for (const request of wanted) {
    const item = here.get(keyOf(request)) ?? itemOf(request);
    if (item === before) before = item.nextElementSibling;
    else list.insertBefore(item, before);
  }
}

function keyOf(request) {
  return `${request.request_id} ${request.at_s}`;
}

function itemOf(request) {
  const details = element("details", {}, summaryOf(request));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(moreOf(request));
    if (details.open) drawPath(details.querySelector(".plot"), request);
  });
  const item = element("li", {}, details);
  item.dataset.key = keyOf(request);
  return item;
}

function summaryOf(request) {
  const kind = BAD.has(request.route) ? "wrong" : request.route;
  const at = new Date(request.at_s * 1000);
  return element(
    "summary",
    {},
    element("time", { class: "time", datetime: at.toISOString() }, at.toTimeString().slice(0, 8)),
    element("span", { class: `badge ${kind}` }, request.route),
    element("span", { class: "model" }, request.model),
    element("span", { class: "why" }, whyOf(request)),
    element("span", { class: "score" }, meterOf(request)),
    element("span", { class: "took" }, seconds(request.elapsed_s)),
  );
}

function whyOf(request) {
  const parts = [words(request.reason)];
  if (request.error) parts.push(request.error);
  if (request.depth) parts.push(`${request.depth} ${request.depth === 1 ? "look" : "looks"}`);
  if (request.status >= 400) parts.push(String(request.status));
  return parts.join(", ");
}

// A score against its threshold: the bar is the score, the stroke the threshold.
function meterOf(request) {
  if (request.score === undefined || request.threshold === undefined) return null;
  const top = request.threshold <= 1 ? 1 : 2 * request.threshold;
  const at = (value) => `${(100 * Math.min(value, top)) / top}%`;
  const passed = request.reason === "accepted";
  const scale = request.threshold <= 1 ? "share" : "raw";
  const label = `score ${score(request.score, scale)}, threshold ${score(request.threshold, scale)}`;
  return element(
    "span",
    { class: "meter", role: "img", "aria-label": label, title: label },
    shape(
      "svg",
      { "aria-hidden": "true" },
      shape("rect", { class: passed ? "right" : "wrong", x: 0, y: 3, width: at(request.score), height: 6, rx: 3 }),
      shape("line", { class: "threshold", x1: at(request.threshold), x2: at(request.threshold), y1: 0, y2: 12 }),
    ),
  );
}

function moreOf(request) {
  const scale = (request.threshold ?? 2) <= 1 ? "share" : "raw";
  const facts = [
    ["request", request.request_id],
    ["status", request.status],
    ["first byte", request.first_byte_s === undefined ? undefined : seconds(request.first_byte_s)],
    ["in line", request.waited_s >= 0.001 ? seconds(request.waited_s) : undefined],
    ["p(tool)", request.p_tool === undefined ? undefined : request.p_tool.toFixed(3)],
    ["score", request.score === undefined ? undefined : `${score(request.score, scale)} of ${score(request.threshold, scale)}`],
    ["turns", request.turns],
    ["small model's tokens", request.small_tokens ? count(request.small_tokens) : undefined],
    ["large model's tokens", request.large_tokens ? count(request.large_tokens) : undefined],
    ["streamed", request.is_stream ? "yes" : undefined],
    ["error", request.error],
  ].filter(([, value]) => value !== undefined);
  const list = element("dl", { class: "facts" }, ...facts.map(([name, value]) => element("div", { class: name === "request" ? "wide" : null }, element("dt", {}, name), element("dd", {}, String(value)))));
  return element("div", { class: "more" }, list, element("div", { class: "plot" }));
}

function drawPath(place, request) {
  const steps = request.steps ?? [];
  if (!steps.length) {
    place.replaceChildren(element("p", { class: "empty" }, request.route === "bypass" ? "It went untouched to the large engine." : "It never reached the funnel."));
    return;
  }
  const end_s = Math.max(...steps.map((step) => step.ended_s), 1e-6);
  const label = steps.map((step) => `${nameOf(step)} from ${seconds(step.began_s)} to ${seconds(step.ended_s)}`).join("; ");
  plot(place, steps.length * ROW + 8, label, (add, width) => {
    const narrow = width < 560;
    const left = narrow ? 92 : 150;
    const right = width - (narrow ? 54 : 240);
    const x = (at_s) => left + (at_s / end_s) * (right - left);
    steps.forEach((step, i) => {
      const y = i * ROW + 4;
      const inner = step.kind === "turn" || step.kind === "tool";
      add("line", { class: "grid", x1: 0, x2: width, y1: y + ROW - 2, y2: y + ROW - 2 });
      add("text", { x: inner ? 14 : 0, y: y + 14, class: "label" }, nameOf(step));
      const length = Math.max(2, x(step.ended_s) - x(step.began_s));
      add("rect", { class: `${step.outcome === undefined ? step.kind : "wrong"} ${inner ? "" : "whole"}`, x: x(step.began_s), y: y + 4, width: length, height: 12, rx: 2 }, shape("title", {}, noteOf(step)));
      add("text", { x: narrow ? width : right + 56, y: y + 14, class: "end" }, seconds(step.ended_s - step.began_s));
      if (!narrow) add("text", { x: right + 68, y: y + 14 }, noteOf(step));
    });
  });
}

function nameOf(step) {
  if (step.kind === "turn") return `turn ${step.turn}`;
  return step.kind === "tool" ? (step.tool ?? "tool").replace("image_zoom_in_tool", "zoom") : words(step.kind);
}

function noteOf(step) {
  const parts = [];
  if (step.outcome) parts.push(step.outcome);
  if (step.p_tool !== undefined) parts.push(`p(tool) ${step.p_tool.toFixed(2)}`);
  if (step.score !== undefined) parts.push(score(step.score, step.threshold <= 1 ? "share" : "raw"));
  if (step.note) parts.push(words(step.note));
  if (step.said) parts.push(step.said);
  if (step.completion_tokens !== undefined) parts.push(`${count(step.completion_tokens)} ${step.completion_tokens === 1 ? "token" : "tokens"}`);
  if (step.boxes?.length) parts.push(step.boxes.map(([l, t, r, b]) => `${r - l}×${b - t} at ${l}, ${t}`).join("; "));
  return parts.join(", ");
}
