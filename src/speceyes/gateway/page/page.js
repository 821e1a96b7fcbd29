// Asks for the figures each second and shows them; all drawing is done elsewhere.
import { cardsOf, drawRate, drawScores, drawTimes, keepRates, rateBetween } from "./charts.js";
import { count, element, short, span, times } from "./draw.js";
import { drawFunnel, listBeside } from "./funnel.js";
import { listHolding } from "./holding.js";
import { showRequests } from "./requests.js";

const EVERY_MS = 1000;
const FEW = 12;
const at = (id) => document.getElementById(id);
const state = { shown: null, model: null, paused: false, all: false, rates: [], before: null, timer: null };

async function read() {
  const reply = await fetch("/v1/stats", { cache: "no-store", signal: AbortSignal.timeout(10_000) });
  if (reply.status === 401) throw new Error("it asks for a key; load this page anew");
  if (!reply.ok) throw new Error(`it answers with status ${reply.status}`);
  return reply.json();
}

async function beat() {
  try {
    const told = await read();
    state.shown = told;
    note(told);
    at("trouble").hidden = true;
    at("pulse").className = "pulse on";
    show();
  } catch (error) {
    const since = state.shown ? ` Shown is what it told at ${new Date(state.shown.at_s * 1000).toTimeString().slice(0, 8)}.` : "";
    const told = `The gateway's figures cannot be read: ${error.message}.${since}`;
    if (at("trouble").textContent !== told) at("trouble").textContent = told;
    at("trouble").hidden = false;
    at("pulse").className = "pulse off";
  }
  plan();
}

function plan() {
  clearTimeout(state.timer);
  if (!state.paused && !document.hidden) state.timer = setTimeout(beat, EVERY_MS);
}

function figures() {
  return (state.model && state.shown.models[state.model]) || state.shown.total;
}

function note(told) {
  const routes = ((state.model && told.models[state.model]) || told.total).routes;
  const reading = { at_s: told.at_s, routes };
  const rate = state.before && rateBetween(state.before, reading);
  if (rate) state.rates.push(rate);
  keepRates(state.rates);
  state.before = reading;
}

function show() {
  const { shown } = state;
  const now = figures();
  const latest = state.rates.slice(-5);
  const rate = latest.length ? latest.flatMap((one) => Object.values(one)).reduce((a, b) => a + b, 0) / latest.length : null;
  at("eyebrow").textContent = `speceyes ${shown.version} · gateway · up ${span(shown.at_s - shown.since_s)} · ${shown.now.workers} ${shown.now.workers === 1 ? "worker" : "workers"}`;
  at("headline").textContent = headline(now);
  at("cards").replaceChildren(...cardsOf(now, shown.now, rate).map(([name, value, under, kind]) =>
    element("div", { class: "stat" }, element("span", {}, name), element("b", { class: kind }, value), element("span", {}, under))));
  drawFunnel(at("funnel"), now);
  listBeside(at("beside"), now);
  const [gated, scores] = scoresOf(now);
  at("scores-title").textContent = gated ? `Scores at the gate of ${gated}` : "Scores at the gate";
  drawScores(at("scores"), at("scores-note"), scores);
  drawTimes(at("times"), now);
  drawRate(at("rate"), state.rates);
  at("holding-section").hidden = !listHolding(at("holding"), shown, state.model);
  showEngines(now);
  showModels();
  showLast();
  at("how").textContent = how(now);
}

// Scores of several gates do not mix; of all models the one with the most of them is shown.
function scoresOf(now) {
  if (now.scores || state.model) return [null, now.scores];
  const total = ({ accepted, rejected }) => [...accepted, ...rejected].reduce((a, b) => a + b, 0);
  const [first] = Object.entries(state.shown.models).filter(([, one]) => one.scores).sort((a, b) => total(b[1].scores) - total(a[1].scores));
  return first ? [first[0], first[1].scores] : [null, null];
}

function showLast() {
  const mine = state.shown.last.filter((request) => !state.model || request.model === state.model);
  showRequests(at("last"), state.all ? mine : mine.slice(0, FEW));
  at("all").hidden = mine.length <= FEW;
  at("all").textContent = state.all ? "Show fewer" : `Show all ${mine.length}`;
  at("all").setAttribute("aria-expanded", String(state.all));
}

function headline(now) {
  if (!now.requests) return `Ready: send a question and a picture to ${location.origin}/v1/chat/completions`;
  const { estimate, limit } = now.speed;
  if (estimate === null) return `${count(now.requests)} ${now.requests === 1 ? "request" : "requests"} so far; too few to tell how much faster`;
  const speed = estimate >= 1 ? `${times(estimate)} as fast as the agent alone` : `${times(estimate)} the agent's own speed: slower than without`;
  return limit === null ? speed : `${speed}, of ${times(limit)} possible`;
}

function how(now) {
  const { alone_s, ours_s } = now.speed;
  const sums = alone_s === null || ours_s === null ? "" : ` Here: ${alone_s.toFixed(2)} s over ${ours_s.toFixed(2)} s.`;
  return "The speedup is an estimate: the agent's mean time on the queries that fell back to it, over the mean time of all answers. " +
    `If those queries are the harder ones, it is too high.${sums} The limit is 1 / (1 − β·α).`;
}

function showEngines(now) {
  const states = Object.entries(state.shown.now.breakers).filter(([model]) => !state.model || model === state.model);
  const rows = states.flatMap(([model, engines]) => Object.entries(engines).map(([engine, counts]) =>
    element("tr", {}, element("th", { scope: "row" }, states.length > 1 ? `${model}: ${engine}` : engine), element("td", {}, ...badges(counts)))));
  const tokens = Object.entries(now.tokens).map(([engine, { prompt, cached, completion }]) =>
    element("tr", {}, element("th", { scope: "row" }, engine), ...[prompt, cached, completion].map((n) => element("td", {}, short(n)))));
  at("engines").replaceChildren(
    table(["engine", "breaker"], rows),
    table(["tokens", "read", "of them cached", "said"], tokens),
  );
  const errors = now.errors.map(({ engine, kind, count: n }) => element("li", { class: "bad" }, element("b", {}, count(n)), ` ${kind}, ${engine}`));
  const dropped = Object.entries(state.shown.dropped).map(([what, n]) => element("li", { class: "bad" }, element("b", {}, count(n)), ` ${what} dropped`));
  at("errors").replaceChildren(element("ul", { class: "chips" }, ...errors, ...dropped));
}

function badges(counts) {
  const names = { closed: "up", open: "down", half_open: "being tried" };
  const entries = Object.entries(counts);
  const whole = entries.reduce((sum, [, n]) => sum + n, 0);
  return entries.flatMap(([name, n]) => [element("span", { class: `state ${name}` }, whole > 1 && n < whole ? `${names[name]}, ${n} of ${whole}` : names[name]), " "]);
}

function table(heads, rows) {
  if (!rows.length) return "";
  return element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))), element("tbody", {}, ...rows));
}

function showModels() {
  const names = Object.keys(state.shown.models);
  const place = at("models");
  place.hidden = names.length < 2;
  if (place.childElementCount === names.length + 1) return;
  place.replaceChildren(...[null, ...names].map((name) => {
    const button = element("button", { type: "button", "aria-pressed": String(name === state.model) }, name ?? "all models");
    button.addEventListener("click", () => choose(name, button));
    return button;
  }));
}

function choose(name, button) {
  state.model = name;
  state.rates = [];
  state.before = null;
  for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
  show();
}

at("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  at("pause").setAttribute("aria-pressed", String(state.paused));
  at("pause").textContent = state.paused ? "Go on" : "Pause";
  if (state.paused) at("pulse").className = "pulse";
  state.before = null;
  plan();
});
at("all").addEventListener("click", () => {
  state.all = !state.all;
  showLast();
});
document.addEventListener("visibilitychange", () => { state.before = null; plan(); });
window.addEventListener("resize", () => { if (state.shown) show(); });
beat();
