// Scores, times and rates as drawings.
import { count, nothing, plot, score, seconds, shape, share } from "./draw.js";

const PHASES = ["screen", "speculate", "gate", "fall_back"];
const NAMES = { screen: "screen", speculate: "speculate", gate: "gate", fall_back: "fall back", speculative: "answer, speculative", agentic: "answer, agentic", overhead: "gateway's own" };
const ROUTES = ["speculative", "agentic", "bypass", "other"];
const KEPT = 120;

// Raw scores stand on an even axis, in steps of a half; shares crowd near 1, where thresholds lie,
// so there each bucket is as wide as the next.
export function drawScores(place, note, scores) {
  const total = scores ? sum(scores.accepted) + sum(scores.rejected) : 0;
  note.textContent = "";
  if (!scores) {
    nothing(place, "No model here has a gate.");
    return;
  }
  if (!total) {
    nothing(place, "The gate has scored no answer yet.");
    return;
  }
  const bins = scores.scale === "share" ? shares(scores) : halves(scores);
  const most = Math.max(...bins.map((bin) => (bin.accepted + bin.rejected) / bin.weight));
  const label = `Scores of ${total} answers, ${sum(scores.accepted)} accepted; ` +
    (scores.threshold === null ? "models differ in their thresholds." : `threshold ${score(scores.threshold, scores.scale)}.`);
  plot(place, 190, label, (add, width) => {
    const [left, right, top, foot] = [6, width - 6, 24, 164];
    const x = (at) => left + at * (right - left);
    for (const bin of bins) {
      const gap = Math.min(1, (x(bin.to) - x(bin.from)) / 6);
      let y = foot;
      for (const kind of ["rejected", "accepted"]) {
        const height = ((foot - top) * bin[kind]) / bin.weight / most;
        if (!height) continue;
        y -= height;
        const title = shape("title", {}, `${bin.name}: ${count(bin[kind])} ${kind}`);
        add("rect", { class: kind === "accepted" ? "right" : "wrong", x: x(bin.from) + gap, y, width: x(bin.to) - x(bin.from) - 2 * gap, height }, title);
      }
    }
    add("line", { class: "axis", x1: left, x2: right, y1: foot, y2: foot });
    let free = -Infinity;
    for (const bin of bins.filter((bin) => bin.mark)) {
      if (x(bin.to) - free < 30 || x(bin.to) > right - 4) continue;
      free = x(bin.to);
      add("text", { x: free, y: foot + 18, class: "middle" }, bin.mark);
    }
    if (scores.threshold !== null) {
      const at = x(placeOf(scores.threshold, bins));
      add("line", { class: "threshold", x1: at, x2: at, y1: top - 6, y2: foot });
      const isLate = at > width / 2;
      add("text", { x: at + (isLate ? -6 : 6), y: top - 8, class: isLate ? "end label" : "label" }, score(scores.threshold, scores.scale));
    }
  });
  note.textContent = scores.scale === "share" ? "Each bar is one bucket; buckets are finer towards 1." : "Separability of the answer's weakest token, or as the gate puts tokens together.";
}

function halves(scores) {
  const bounds = [0, ...scores.bounds];
  const last = scores.bounds.findLastIndex((_, i) => scores.accepted[i] || scores.rejected[i]);
  const high = Math.max(Math.min((scores.threshold ?? 4) * 1.6, 32), bounds[last + 1] ?? 1, 4);
  const bins = [];
  for (let i = 0; i < scores.bounds.length && bounds[i] < high; i += 1) {
    const [from, to] = [bounds[i], bounds[i + 1]];
    const before = bins.at(-1);
    if (before && before.high - before.low < 0.499 && to <= 1) {
      before.high = to;
      before.accepted += scores.accepted[i];
      before.rejected += scores.rejected[i];
    } else {
      bins.push({ low: from, high: to, accepted: scores.accepted[i], rejected: scores.rejected[i] });
    }
  }
  const beyond = scores.bounds.length;
  bins.at(-1).accepted += scores.accepted[beyond];
  bins.at(-1).rejected += scores.rejected[beyond];
  const end = bins.at(-1).high;
  return bins.map((bin) => ({
    ...bin,
    from: bin.low / end,
    to: bin.high / end,
    weight: (bin.high - bin.low) / 0.5,
    name: `${bin.low} to ${bin.high}`,
    mark: Number.isInteger(bin.high) ? String(bin.high) : "",
  }));
}

function shares(scores) {
  const bounds = [0, ...scores.bounds.filter((bound) => bound <= 1)];
  const n = bounds.length - 1;
  return bounds.slice(1).map((high, i) => ({
    low: bounds[i],
    high,
    accepted: scores.accepted[i],
    rejected: scores.rejected[i],
    from: i / n,
    to: (i + 1) / n,
    weight: 1,
    name: `${bounds[i]} to ${high}`,
    mark: String(high),
  }));
}

function placeOf(value, bins) {
  const bin = bins.find(({ high }) => value <= high + 1e-9) ?? bins.at(-1);
  const within = Math.min(1, (value - bin.low) / (bin.high - bin.low));
  return bin.from + within * (bin.to - bin.from);
}

export function drawTimes(place, figures) {
  const rows = [
    ...PHASES.map((phase) => [phase, phase, figures.phases[phase]]),
    ...["speculative", "agentic"].map((route) => [route, route, figures.answers[route]]),
    ["overhead", "bypass", pooled(figures.overhead)],
  ].filter(([, , spent]) => spent);
  if (!rows.length) {
    nothing(place, "Nothing has been timed yet.");
    return;
  }
  const label = rows.map(([name, , spent]) => `${NAMES[name]}: median ${seconds(spent.p50_s)}, 95th percentile ${seconds(spent.p95_s)}`).join("; ");
  const isNarrow = place.clientWidth < 480; // names and numbers then stand above their lines
  const step = isNarrow ? 44 : 30;
  plot(place, rows.length * step + 26, label, (add, width) => {
    const [left, right] = isNarrow ? [6, width - 6] : [140, width - 116];
    const low = Math.log10(Math.max(1e-4, Math.min(...rows.map(([, , spent]) => spent.p50_s)) / 2));
    const high = Math.log10(Math.max(...rows.map(([, , spent]) => spent.p99_s)) * 1.2);
    const x = (value) => left + ((Math.log10(Math.max(value, 1e-4)) - low) / (high - low)) * (right - left);
    const foot = rows.length * step;
    let free = -Infinity;
    for (let power = Math.ceil(low); power <= high; power += 1) {
      const at = x(10 ** power);
      if (at - free < 48) continue;
      free = at;
      add("line", { class: "grid", x1: at, x2: at, y1: 4, y2: foot });
      add("text", { x: at, y: foot + 16, class: "middle" }, seconds(10 ** power).replace(".00", "").replace(".0", ""));
    }
    rows.forEach(([name, kind, spent], i) => {
      const y = i * step + (isNarrow ? 30 : 18);
      const words = isNarrow ? y - 12 : y + 4;
      add("text", { x: 0, y: words, class: "label halo" }, NAMES[name]);
      add("line", { class: `tail ${kind}`, x1: x(spent.p50_s), x2: x(spent.p99_s), y1: y, y2: y });
      add("line", { class: `span ${kind}`, x1: x(spent.p50_s), x2: x(spent.p95_s), y1: y, y2: y });
      add("circle", { class: `dot ${kind}`, cx: x(spent.p50_s), cy: y, r: 5 });
      add("text", { x: width, y: words, class: "end halo" }, `${seconds(spent.p50_s)}, ${seconds(spent.p95_s)}`);
    });
  });
}

// Of several routes the one with the most requests speaks for all.
function pooled(byRoute) {
  return Object.values(byRoute).sort((a, b) => b.count - a.count)[0];
}

export function drawRate(place, rates) {
  if (!rates.length) {
    nothing(place, "Counting …");
    return;
  }
  const most = Math.max(1, ...rates.map((rate) => sum(ROUTES.map((route) => rate[route]))));
  const mean = sum(rates.map((rate) => sum(ROUTES.map((route) => rate[route])))) / rates.length;
  plot(place, 190, `On average ${mean.toFixed(1)} requests a second, at most ${most.toFixed(1)}.`, (add, width) => {
    const [left, top, foot] = [0, 24, 164];
    const step = (width - left) / KEPT;
    add("line", { class: "grid", x1: left, x2: width, y1: top, y2: top });
    add("text", { x: left, y: top - 8 }, `${most >= 10 ? count(most) : most.toFixed(most % 1 ? 1 : 0)} a second`);
    rates.forEach((rate, i) => {
      const x = width - (rates.length - i) * step;
      let y = foot;
      for (const route of ROUTES) {
        const height = ((foot - top) * rate[route]) / most;
        if (height <= 0) continue;
        y -= height;
        add("rect", { class: route === "other" ? "wrong" : route, x: x + 0.4, y, width: Math.max(1, step - 0.8), height });
      }
    });
    add("line", { class: "axis", x1: left, x2: width, y1: foot, y2: foot });
    add("text", { x: left, y: foot + 18 }, "2 min ago");
    add("text", { x: width, y: foot + 18, class: "end" }, "now");
  });
}

// What was counted between two readings, a second; a gateway that was started anew begins at 0.
export function rateBetween(before, after) {
  const elapsed_s = after.at_s - before.at_s;
  if (elapsed_s <= 0) return null;
  const gained = (route) => Math.max(0, (after.routes[route] ?? 0) - (before.routes[route] ?? 0)) / elapsed_s;
  const rate = { speculative: gained("speculative"), agentic: gained("agentic"), bypass: gained("bypass") };
  rate.other = ["degraded", "refused", "failed", "cancelled"].map(gained).reduce((a, b) => a + b, 0);
  return rate;
}

export function keepRates(rates) {
  while (rates.length > KEPT) rates.shift();
}

export function cardsOf(figures, now, rate) {
  const { speed } = figures;
  const busiest = pooled(figures.overhead);
  return [
    ["requests", count(figures.requests), rate === null ? "so far" : `${rate.toFixed(1)} a second now`],
    ["β: need no tool", share(figures.beta), `${count(figures.passed)} of ${count(figures.decided)}`],
    ["α: accepted", share(figures.alpha), `${count(figures.accepted)} of ${count(figures.passed)}`],
    ["speedup, about", speed.estimate === null ? "–" : `${speed.estimate.toFixed(2)}×`, speed.limit === null ? "of a limit not known yet" : `of at most ${speed.limit.toFixed(2)}×`, "ours"],
    ["under way", count(now.in_flight), `${count(now.queued)} in line`],
    ["own time", busiest ? seconds(busiest.p50_s) : "–", busiest ? `95 %: ${seconds(busiest.p95_s)}` : "of the gateway"],
  ];
}

function sum(values) {
  return values.reduce((a, b) => a + b, 0);
}
