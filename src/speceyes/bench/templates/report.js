"use strict";
{
  const steps = JSON.parse(document.getElementById("sweep").textContent);
  const slider = document.getElementById("threshold");
  if (steps && slider) {
    const svg = document.getElementById("curves");
    const probe = svg.querySelector(".probe");
    const readout = document.getElementById("readout");
    const [low, high, start, end] = ["low", "high", "start", "end"].map((k) => Number(svg.dataset[k]));
    const show = () => {
      const at = Number(slider.value);
      let i = steps.thresholds.findLastIndex((t) => t <= at);
      if (i < 0) i = 0;
      const x = start + ((at - low) / (high - low)) * (end - start);
      probe.setAttribute("x1", x);
      probe.setAttribute("x2", x);
      readout.textContent = `At ${at.toFixed(2)}: accuracy ${(100 * steps.accuracy[i]).toFixed(1)} %, ` +
        `speedup ${steps.speedup[i].toFixed(2)}×, ${(100 * steps.accepted[i]).toFixed(0)} % of all items accepted.`;
    };
    slider.addEventListener("input", () => { probe.removeAttribute("hidden"); show(); });
    show();
  }
  const cards = [...document.querySelectorAll("article")];
  const chosen = { route: "all", grade: "all" };
  const count = document.getElementById("shown");
  const filter = () => {
    for (const card of cards) {
      card.hidden = Object.entries(chosen).some(([k, v]) => v !== "all" && card.dataset[k] !== v);
    }
    if (count) count.textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length}`;
  };
  for (const button of document.querySelectorAll(".filters button")) {
    button.addEventListener("click", () => {
      chosen[button.dataset.by] = button.value;
      for (const other of button.parentElement.children) other.setAttribute("aria-pressed", other === button);
      filter();
    });
  }
  filter();
}
