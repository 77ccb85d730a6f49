"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const options = {
    mode: "vega-lite",
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: "secateur",
  };
  const curves = [];
  const send = (signal, value) => {
    for (const view of curves) view.signal(signal, value).runAsync();
  };
  for (const [id, spec] of Object.entries(specs)) {
    const place = document.getElementById(id);
    vegaEmbed(place, spec, options)
      .then((result) => {
        if (place.dataset.curves !== undefined) curves.push(result.view);
      })
      .catch((error) => {
        place.textContent = `This chart could not be drawn: ${error.message}`;
      });
  }
  for (const input of document.querySelectorAll("input[name=measure]")) {
    input.addEventListener("change", () => send("measure", input.value));
  }
  const chips = [...document.querySelectorAll("button[data-criterion]")];
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      const on = chip.getAttribute("aria-pressed") !== "true";
      for (const other of chips) other.setAttribute("aria-pressed", String(on && other === chip));
      send("focus", on ? chip.dataset.criterion : "");
    });
  }
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details.settings")) part.open = true;
  });
})();
