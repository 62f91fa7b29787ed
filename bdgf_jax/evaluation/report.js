"use strict";
// The map panel: two layers of one place, parted by a line that is dragged or moved by the arrow keys.
// Without this script the page shows the same pictures side by side.
(() => {
  const viewer = document.getElementById("viewer");
  const stage = viewer.querySelector(".stage");
  const swipe = viewer.querySelector("input[type=range]");
  const place = viewer.querySelector("output");
  const picture = (layer) => document.querySelector(`[data-layer="${layer}"] img`);
  const radios = (side) => [...viewer.querySelectorAll(`input[name="${side}"]`)];
  const chosen = (side) => radios(side).find((radio) => radio.checked);

  const choose = (side, layer) => {
    const radio = radios(side).find((radio) => radio.value === layer);
    if (radio) radio.checked = true;
  };

  const draw = () => {
    for (const side of ["left", "right"]) {
      const radio = chosen(side);
      const image = stage.querySelector(`img.${side}`);
      image.src = picture(radio.value).src;
      image.alt = `${radio.dataset.title}, ${side} of the line`;
      stage.querySelector(`.tag.${side}`).textContent = radio.dataset.title;
    }
    stage.style.setProperty("--at", `${swipe.value}%`);
    swipe.setAttribute("aria-valuetext", `line at ${Math.round(swipe.value)} % of the width`);
  };

  const remember = () => {
    draw();
    const view = `#view=${chosen("left").value},${chosen("right").value},${swipe.value}`;
    history.replaceState(null, "", view);
  };

  const recall = () => {
    const view = location.hash.match(/^#view=([\w-]+),([\w-]+),([\d.]+)$/);
    if (view) {
      choose("left", view[1]);
      choose("right", view[2]);
      swipe.value = view[3];
    }
    draw();
  };

  const swap = () => {
    const [left, right] = [chosen("left").value, chosen("right").value];
    choose("left", right);
    choose("right", left);
    remember();
  };

  viewer.addEventListener("input", remember);
  viewer.querySelector("button").addEventListener("click", swap);
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const digit = event.code.match(/^Digit([1-9])$/);
    const layer = digit && radios("right")[digit[1] - 1];
    if (layer) {
      choose(event.shiftKey ? "left" : "right", layer.value);
      remember();
    } else if (event.key === "x") {
      swap();
    }
  });

  // What a pixel is called: read from the pictures themselves, by the colours of the legend.
  const names = new Map([...document.querySelectorAll("[data-colour]")].map((key) => [key.dataset.colour, key.textContent.trim()]));
  const pixels = (image) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return (across, down) => {
      const [x, y] = [Math.floor(across * canvas.width), Math.floor(down * canvas.height)];
      const [red, green, blue, alpha] = context.getImageData(x, y, 1, 1).data;
      const colour = "#" + [red, green, blue].map((level) => level.toString(16).padStart(2, "0")).join("");
      return alpha ? names.get(colour) : "none";
    };
  };
  let look = null;
  stage.addEventListener("pointermove", (event) => {
    look ??= { reference: pixels(picture("reference")), map: pixels(picture("map")) };
    const box = stage.getBoundingClientRect();
    const across = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 0.999999);
    const down = Math.min(Math.max((event.clientY - box.top) / box.height, 0), 0.999999);
    const [row, column] = [Math.floor(down * stage.dataset.rows), Math.floor(across * stage.dataset.columns)];
    const said = Object.entries(look).map(([layer, at]) => `${layer} ${at(across, down)}`);
    place.textContent = `row ${row}, column ${column}: ${said.join(", ")}`;
  });

  window.addEventListener("hashchange", recall);
  recall();
  viewer.hidden = false;
  document.getElementById("side-by-side").classList.add("printed");
})();
