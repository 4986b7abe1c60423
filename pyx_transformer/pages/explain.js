"use strict";

// The language of the page is the one that is chosen.
for (const input of document.querySelectorAll(".languages input")) {
  input.addEventListener("change", () => {
    document.documentElement.lang = input.value;
    document.title = document.querySelector(`h1 [lang="${input.value}"]`).textContent;
  });
}

// A picture tells the number that is pointed at, by the pointer or the arrow keys.
for (const figure of document.querySelectorAll(".scan")) {
  const bytes = Uint8Array.from(atob(figure.dataset.numbers), (letter) => letter.charCodeAt(0));
  const numbers = new Float32Array(bytes.buffer);
  const columns = Number(figure.dataset.columns);
  const rows = numbers.length / columns;
  const field = figure.querySelector(".field");
  const output = figure.querySelector("output");
  const mark = document.createElement("div");
  mark.className = "mark";
  mark.style.width = `${100 / columns}%`;
  mark.style.height = `${100 / rows}%`;
  field.append(mark);
  field.tabIndex = 0;
  output.hidden = false;
  let [row, column] = [0, 0];

  function point(down, across) {
    row = Math.max(0, Math.min(rows - 1, down));
    column = Math.max(0, Math.min(columns - 1, across));
    mark.style.left = `${(100 * column) / columns}%`;
    mark.style.top = `${(100 * row) / rows}%`;
    output.textContent = `PE[${row}, ${column}] = ${numbers[row * columns + column].toFixed(6)}`;
  }

  field.addEventListener("pointermove", (event) => {
    const box = field.getBoundingClientRect();
    const down = ((event.clientY - box.top) / box.height) * rows;
    point(Math.floor(down), Math.floor(((event.clientX - box.left) / box.width) * columns));
  });
  field.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    point(row + step[0], column + step[1]);
  });
  point(0, 0);
}
