"use strict";
(() => {
  const charts = document.getElementById("charts");
  const specs = charts ? JSON.parse(charts.textContent) : {};
  const options = {
    mode: "vega-lite",
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: "secateur",
  };
  const views = new Map();
  for (const [id, spec] of Object.entries(specs)) {
    const place = document.getElementById(id);
    const view = vegaEmbed(place, spec, options)
      .then((result) => result.view)
      .catch((error) => {
        place.textContent = `This chart could not be drawn: ${error.message}`;
      });
    views.set(place, view);
  }
  // a chart that is still being drawn gets its signals when it is there
  const send = (part, signal, value) => {
    for (const place of part.querySelectorAll("[data-steered]")) {
      views.get(place)?.then((view) => view?.signal(signal, value).runAsync());
    }
  };

  for (const input of document.querySelectorAll("input[data-signal]")) {
    const apply = () => input.checked && send(input.closest("section"), input.name, input.value);
    input.addEventListener("change", apply);
    apply();
  }
  for (const input of document.querySelectorAll("input[data-choice]")) {
    const apply = () => {
      if (!input.checked) return;
      for (const part of input.closest("section").querySelectorAll("[data-value]")) {
        part.hidden = part.dataset.value !== input.value;
      }
    };
    input.addEventListener("change", apply);
    apply();
  }
  for (const box of document.querySelectorAll("select[data-signal]")) {
    const apply = () => send(box.closest("section"), box.name, box.value);
    box.addEventListener("change", apply);
    apply();
  }
  for (const box of document.querySelectorAll("select[data-choice]")) {
    const apply = () => {
      for (const part of box.closest("section").querySelectorAll("[data-value]")) {
        part.hidden = part.dataset.value !== box.value;
      }
    };
    box.addEventListener("change", apply);
    apply();
  }
  for (const group of document.querySelectorAll(".chips")) {
    const chips = [...group.querySelectorAll("button")];
    for (const chip of chips) {
      chip.addEventListener("click", () => {
        const on = chip.getAttribute("aria-pressed") !== "true";
        for (const other of chips) other.setAttribute("aria-pressed", String(on && other === chip));
        send(group.closest("section"), "focus", on ? chip.dataset.criterion : "");
      });
    }
  }

  for (const film of document.querySelectorAll(".film")) {
    const slider = film.querySelector("input");
    if (!slider) continue;
    const { positions, tracks } = JSON.parse(film.querySelector("script").textContent);
    const button = film.querySelector("button");
    const pictures = film.querySelectorAll("img");
    const values = film.querySelectorAll(".value");
    const show = () => {
      const frame = Number(slider.value);
      const where = `${positions[frame]} ${film.dataset.unit}`;
      tracks.forEach((track, place) => {
        pictures[place].src = `data:image/png;base64,${track.frames[frame]}`;
        values[place].textContent = `${track.accuracy[frame].toFixed(1)}\u202f%`;
      });
      film.querySelector("output").textContent = where;
      slider.setAttribute("aria-valuetext", where);
      send(film, "position", positions[frame]);
    };
    let timer = 0;
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      button.textContent = "Play";
    };
    const step = () => {
      slider.value = String(Number(slider.value) + 1);
      show();
      if (slider.value === slider.max) stop();
    };
    button.addEventListener("click", () => {
      if (timer) {
        stop();
        return;
      }
      if (slider.value === slider.max) slider.value = "0";
      show();
      button.textContent = "Pause";
      timer = setInterval(step, 200);
    });
    slider.addEventListener("input", () => {
      stop();
      show();
    });
    slider.hidden = button.hidden = false;
    show();
  }

  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details.settings")) part.open = true;
  });
})();
