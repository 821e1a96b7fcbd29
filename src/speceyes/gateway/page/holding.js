// Says what each gate was calibrated to, and whether that holds: one line for each that is known.
import { count, element } from "./draw.js";

const STATES = { watching: "holds", broken: "bound broken", tightened: "tightened", off: "speculation off" };
const percent = (share, digits = 2) => `${(100 * share).toFixed(digits)} %`;

export function listHolding(place, shown, model) {
  const mine = (table) => Object.entries(table).filter(([name]) => !model || name === model);
  const lines = [
    ...mine(shown.calibrated).map(([name, one]) => calibrated(name, one, shown.models[name])),
    ...mine(shown.now.shadows).map(([name, one]) => watched(name, one)),
  ];
  place.replaceChildren(...lines);
  return lines.length > 0;
}

function calibrated(name, one, now) {
  const on = one.sources.join(", ");
  const bound = one.accepts_nothing
    ? "too little was known to accept anything"
    : `at most ${percent(one.bound)} ${one.failure}, with ${percent(one.confidence, 0)} confidence`;
  const then = one.accepted === null ? "" : ` · accepted then ${percent(one.accepted, 1)} of all`;
  const here = now && now.decided ? `, here ${percent(now.accepted / now.decided, 1)}` : "";
  return line(`${name}, calibrated ${one.made_at.slice(0, 10)}`, ` on ${on} · ${bound}${then}${then && here}`, one.accepts_nothing);
}

// What shadow work says of the gate: does the small model still answer as the agent does?
function watched(name, one) {
  const { value, low, high } = one.disagreement;
  const found = value === null ? "none checked yet" : `${percent(value)} of ${count(one.checked)} checked differ (${percent(low)} to ${percent(high)})`;
  const risk = one.risk === null ? "" : `; of all queries ${percent(one.risk)}, at most ${percent(one.max_loss)} may`;
  const from = one.drift_from === "calibration" ? "the calibration's" : "the first ones";
  const drift = one.drifted ? `; the scores have drifted from ${from}` : one.psi === null ? "" : `; scores as ${from}, PSI ${one.psi.toFixed(2)}`;
  const states = Object.keys(one.states).map((state) => STATES[state]).join(", ");
  const isBad = one.drifted || Object.keys(one.states).some((state) => state !== "watching");
  return line(`${name}, ${one.mode}: ${states}`, ` · ${found}${risk}${drift}`, isBad);
}

function line(head, rest, isBad) {
  return element("p", { class: isBad ? "note bad" : "note" }, element("b", {}, head), rest);
}
