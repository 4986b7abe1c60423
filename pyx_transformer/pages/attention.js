"use strict";

// Put what can be chosen in the place of the pictures of each `.attention` of the page.
{
  const MOST_CELLS = 6000; // of a table; what has more is a picture

  function floats(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  }

  function element(tag, className = "", text = "") {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = text;
    return made;
  }

  function rounded(weight) {
    return weight < 0.005 ? "·" : weight.toFixed(2).replace(/^0/, "");
  }

  function paint(cell, weight) {
    cell.style.setProperty("--weight", weight);
    cell.title = String(weight);
  }

  function draw(canvas, weights, rows, columns) {
    canvas.width = columns;
    canvas.height = rows;
    const [red, green, blue] = getComputedStyle(canvas).getPropertyValue("--positive").split(" ");
    const picture = new ImageData(columns, rows);
    weights.forEach((weight, i) => picture.data.set([red, green, blue, 255 * weight], 4 * i));
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  class View {
    constructor(section) {
      this.section = section;
      this.maps = JSON.parse(section.querySelector(".data").textContent);
      for (const map of this.maps) map.weights = floats(map.weights);
      this.layer = Infinity; // the last one
      this.head = this.row = 0;
      for (const input of section.querySelectorAll(".kinds input")) {
        input.addEventListener("change", () => this.choose(Number(input.value)));
      }
      const rows = this.find(".words.rows");
      rows.addEventListener("keydown", (event) => this.step(event));
      const dark = matchMedia("(prefers-color-scheme: dark)");
      dark.addEventListener("change", () => this.showHeads());
      this.choose(Number(this.find(".kinds input:checked").value));
      this.find(".live").hidden = false;
      this.find(".static").remove();
    }

    find(selector) {
      return this.section.querySelector(selector);
    }

    // The weights (T, S) of a head, one row after another.
    weights(map = this.map, layer = this.layer, head = this.head) {
      const size = map.rows.length * map.columns.length;
      const begin = (layer * map.heads + head) * size;
      return map.weights.subarray(begin, begin + size);
    }

    choose(kind) {
      this.map = this.maps[kind];
      this.layer = Math.min(this.layer, this.map.layers - 1);
      this.head = Math.min(this.head, this.map.heads - 1);
      this.row = Math.min(this.row, this.map.rows.length - 1);
      this.radios(".layers", "layer", this.map.layers, () => this.showHeads());
      this.radios(".heads", "head", this.map.heads, () => this.showHead());
      this.showWords();
      this.showHeads();
    }

    radios(selector, name, count, show) {
      const field = this.find(selector);
      for (const label of field.querySelectorAll("label")) label.remove();
      for (let i = 0; i < count; i++) {
        const label = element("label");
        const input = element("input");
        Object.assign(input, { type: "radio", name: `${this.section.id}-${name}`, value: i });
        input.checked = i === this[name];
        input.addEventListener("change", () => {
          this[name] = i;
          show();
        });
        label.append(input);
        if (name === "head") label.append(element("canvas"));
        label.append(element("span", "", i + 1));
        field.append(label);
      }
    }

    showWords() {
      const { rows, columns, directions } = this.map;
      const words = rows.map((text, i) => {
        const word = element("button", "word", text);
        word.type = "button";
        for (const event of ["pointerenter", "focus", "click"]) {
          word.addEventListener(event, () => this.point(i));
        }
        return word;
      });
      const attended = columns.map((text) => {
        const word = element("span", "word", text);
        word.append(element("small"));
        return word;
      });
      this.find(".words.rows").replaceChildren(...words);
      this.find(".words.columns").replaceChildren(...attended);
      this.find(".words.rows").dir = directions[0];
      this.find(".words.columns").dir = directions[1];
    }

    showHeads() {
      const { rows, columns } = this.map;
      this.section.querySelectorAll(".heads canvas").forEach((canvas, head) => {
        draw(canvas, this.weights(this.map, this.layer, head), rows.length, columns.length);
      });
      this.showHead();
    }

    showHead() {
      const { rows, columns } = this.map;
      const scroll = this.find(".scroll");
      if (rows.length * columns.length > MOST_CELLS) {
        const canvas = element("canvas", "whole");
        scroll.replaceChildren(canvas);
        draw(canvas, this.weights(), rows.length, columns.length);
        canvas.addEventListener("pointermove", (event) => this.tell(canvas, event));
      } else {
        scroll.replaceChildren(this.table());
      }
      this.point(this.row);
    }

    table() {
      const { rows, columns } = this.map;
      const weights = this.weights();
      const table = element("table");
      const head = table.createTHead().insertRow();
      head.append(element("td", "none"), ...columns.map((text) => element("th", "", text)));
      const body = table.createTBody();
      rows.forEach((text, i) => {
        const row = body.insertRow();
        row.append(element("th", "", text));
        row.addEventListener("pointerenter", () => this.point(i));
        columns.forEach((_, j) => {
          const weight = weights[i * columns.length + j];
          const cell = element("td", weight < 0.005 ? "none" : "", rounded(weight));
          paint(cell, weight);
          row.append(cell);
        });
      });
      return table;
    }

    // Show what the word of a row attends to.
    point(row) {
      this.row = row;
      const { rows, columns } = this.map;
      const weights = this.weights().subarray(row * columns.length, (row + 1) * columns.length);
      this.section.querySelectorAll(".words.rows .word").forEach((word, i) => {
        word.classList.toggle("chosen", i === row);
        word.setAttribute("aria-pressed", i === row);
        word.tabIndex = i === row ? 0 : -1;
      });
      this.section.querySelectorAll(".words.columns .word").forEach((word, j) => {
        paint(word, weights[j]);
        word.lastChild.textContent = rounded(weights[j]);
      });
      this.section.querySelectorAll("tbody tr").forEach((line, i) => {
        line.classList.toggle("chosen", i === row);
      });
      const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, 3);
      const strongest = this.find(".strongest");
      strongest.replaceChildren(element("b", "", rows[row]), element("span", "", " → "));
      order.forEach((j, place) => {
        if (place) strongest.append(element("span", "", ", "));
        strongest.append(element("bdi", "", columns[j]), ` ${weights[j].toFixed(4)}`);
      });
    }

    // Tell the number that is pointed at in a picture.
    tell(canvas, { offsetX, offsetY }) {
      const { rows, columns } = this.map;
      const place = (offset, size, count) =>
        Math.max(0, Math.min(count - 1, Math.floor((offset / size) * count)));
      const row = place(offsetY, canvas.clientHeight, rows.length);
      const column = place(offsetX, canvas.clientWidth, columns.length);
      if (row !== this.row) this.point(row);
      const weight = this.weights()[row * columns.length + column];
      canvas.title = `${rows[row]} → ${columns[column]} ${weight}`;
    }

    step(event) {
      const words = this.find(".words.rows");
      const sign = words.dir === "rtl" ? -1 : 1;
      const steps = { ArrowRight: sign, ArrowDown: 1, ArrowLeft: -sign, ArrowUp: -1 };
      const next = words.children[this.row + steps[event.key]];
      if (next === undefined) return;
      event.preventDefault();
      next.focus();
    }
  }

  for (const section of document.querySelectorAll(".attention")) section.view = new View(section);
}
