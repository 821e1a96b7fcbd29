// The funnel as a drawing: bands as thick as the share of queries that went that way.
import { count, element, nothing, plot, share, words } from "./draw.js";

const HEIGHT = 250;
const BAR = 12;
const BESIDE = { bypass: "bypassed", refused: "refused", failed: "failed", cancelled: "cancelled", degraded: "degraded" };

export function drawFunnel(place, figures) {
  const { decided, passed, accepted } = figures;
  if (!decided) {
    nothing(place, "No query has come through the funnel yet.");
    return;
  }
  const fellBack = decided - accepted;
  const label = `Of ${decided} queries ${passed} needed no tool and were speculated on; of these ${accepted} were accepted. ` +
    `${fellBack} went to the agent.`;
  plot(place, HEIGHT, label, (add, width) => {
    const top = 34;
    const full = HEIGHT - top - 58;
    const thick = (n) => (full * n) / decided;
    const middle = Math.round(width * 0.44);
    const right = width - BAR;
    const low = top + full + 24 - thick(fellBack) ; // where the agent's bar begins, lower than the rest
    const narrow = width < 560;
    ribbon(add, "speculate", [BAR, top, thick(passed)], [middle, top]);
    ribbon(add, "fall_back", [BAR, top + thick(passed), thick(decided - passed)], [right, low + thick(passed - accepted)]);
    ribbon(add, "speculate", [middle + BAR, top, thick(accepted)], [right, top]);
    ribbon(add, "fall_back", [middle + BAR, top + thick(accepted), thick(passed - accepted)], [right, low]);
    bar(add, "screen", 0, top, full, "screen: the large model, one token");
    bar(add, "gate", middle, top, Math.max(thick(passed), 1), "speculate and gate: the small model");
    bar(add, "speculate", right, top, thick(accepted), "answered by the small model");
    bar(add, "fall_back", right, low, thick(fellBack), "answered by the agent");
    say(add, 0, top - 12, `${count(decided)} ${decided === 1 ? "query" : "queries"}`, "", "label");
    say(add, middle, top - 12, narrow ? `β ${share(passed / decided)} pass` : `β = ${share(passed / decided)} need no tool`, "middle", "label");
    say(add, width, top - 12, `${count(accepted)} accepted`, "end", "label");
    say(add, right - 10, top + Math.min(thick(accepted) / 2 + 5, 24), passed ? `α = ${share(accepted / passed)}` : "", "end", "big halo");
    say(add, width, HEIGHT - 10, `${count(fellBack)} to the agent, ${share(fellBack / decided)}`, "end", "label");
    if (!narrow) say(add, 0, HEIGHT - 10, "screen", "", "");
    if (!narrow) say(add, middle, HEIGHT - 10, "small model, gate", "middle", "");
  });
}

export function listBeside(place, figures) {
  const items = Object.entries(BESIDE).filter(([route]) => figures.routes[route]).map(([route, name]) => {
    const reasons = Object.entries(figures.reasons[route] ?? {}).sort((a, b) => b[1] - a[1]);
    const why = reasons.slice(0, 4).map(([reason, n]) => `${words(reason)} ${count(n)}`).join(", ");
    const kind = route === "bypass" ? "plain" : "bad";
    return element("li", { class: kind }, element("b", {}, count(figures.routes[route])), ` ${name}: ${why}${reasons.length > 4 ? ", …" : ""}`);
  });
  place.replaceChildren(...items);
}

function ribbon(add, kind, [x, y, thickness], [toX, toY]) {
  if (thickness <= 0) return;
  const bend = (x + toX) / 2;
  add("path", {
    class: `band ${kind}`,
    d: `M${x} ${y} C${bend} ${y} ${bend} ${toY} ${toX} ${toY} V${toY + thickness} C${bend} ${toY + thickness} ${bend} ${y + thickness} ${x} ${y + thickness} Z`,
  });
}

function bar(add, kind, x, y, height, title) {
  if (height <= 0) return;
  const made = add("rect", { class: kind, x, y, width: BAR, height, rx: 2 });
  made.append(Object.assign(document.createElementNS("http://www.w3.org/2000/svg", "title"), { textContent: title }));
}

function say(add, x, y, text, anchor, kind) {
  if (text) add("text", { x, y, class: `${anchor} ${kind}`.trim() }, text);
}
