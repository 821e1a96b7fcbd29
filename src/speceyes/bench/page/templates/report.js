"use strict";
for (const figure of document.querySelectorAll("figure.sweep")) {
  const steps = JSON.parse(figure.querySelector("script").textContent);
  const slider = figure.querySelector("input");
  const svg = figure.querySelector("svg");
  const probe = svg.querySelector(".probe");
  const readout = figure.querySelector("output");
  const [low, high, start, end] = ["low", "high", "start", "end"].map((k) => Number(svg.dataset[k]));
  const digits = high - low < 2 ? 3 : 2;
  const show = () => {
    const at = Number(slider.value);
    let i = steps.thresholds.findLastIndex((t) => t <= at);
    if (i < 0) i = 0;
    const x = start + ((at - low) / (high - low)) * (end - start);
    probe.setAttribute("x1", x);
    probe.setAttribute("x2", x);
    readout.textContent = `At ${at.toFixed(digits)}: accuracy ${(100 * steps.accuracy[i]).toFixed(1)} %, ` +
      `speedup ${steps.speedup[i].toFixed(2)}×, ${(100 * steps.accepted[i]).toFixed(0)} % of all items accepted.`;
  };
  slider.addEventListener("input", () => { probe.removeAttribute("hidden"); show(); });
  show();
}
for (const album of document.querySelectorAll(".album")) {
  const cards = [...album.querySelectorAll("article")];
  const count = album.querySelector(".shown");
  const chosen = {};
  const filter = () => {
    for (const card of cards) {
      card.hidden = Object.entries(chosen).some(([k, v]) => v && card.dataset[k] !== v);
    }
    count.textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length}`;
  };
  for (const button of album.querySelectorAll(".filters button")) {
    button.addEventListener("click", () => {
      chosen[button.dataset.by] = button.value;
      for (const other of button.parentElement.children) other.setAttribute("aria-pressed", other === button);
      filter();
    });
  }
  filter();
}
