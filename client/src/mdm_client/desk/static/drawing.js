"use strict";
// Regions drawn over the picture, in pixels of the image: left, top, width, height.

class Drawing {
  constructor(svg, changed) {
    this.svg = svg;
    this.changed = changed;
    this.regions = [];
    this.found = [];
    this.columns = this.rows = 0;
    svg.addEventListener("pointerdown", (event) => this.begin(event));
  }

  show(columns, rows) {
    this.columns = columns;
    this.rows = rows;
    this.found = [];
    if (columns) this.svg.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.draw();
  }

  set(regions) {
    this.regions = regions;
    this.draw();
    this.changed();
  }

  add(region) { this.set([...this.regions, region]); }

  propose(found) {
    this.found = found;
    this.draw();
  }

  clip([left, top, width, height]) {
    const x = Math.max(0, Math.min(left, this.columns)), y = Math.max(0, Math.min(top, this.rows));
    return [x, y, Math.max(0, Math.min(left + width, this.columns) - x), Math.max(0, Math.min(top + height, this.rows) - y)];
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    return [(event.clientX - box.left) * this.columns / box.width, (event.clientY - box.top) * this.rows / box.height];
  }

  begin(event) {
    if (!this.columns || event.button !== 0) return;
    const [x0, y0] = this.point(event);
    const rectangle = this.rectangle([x0, y0, 0, 0], "region");
    this.svg.setPointerCapture(event.pointerId);
    const between = (other) => {
      const [x1, y1] = this.point(other);
      const left = Math.floor(Math.min(x0, x1)), top = Math.floor(Math.min(y0, y1));
      return this.clip([left, top, Math.ceil(Math.max(x0, x1)) - left, Math.ceil(Math.max(y0, y1)) - top]);
    };
    const move = (other) => this.place(rectangle, between(other));
    const end = (other) => {
      this.svg.removeEventListener("pointermove", move);
      this.svg.removeEventListener("pointercancel", end);
      const region = between(other);
      // A click is no region.
      if (other.type === "pointerup" && region[2] > 2 && region[3] > 2) this.add(region);
      else this.draw();
    };
    this.svg.addEventListener("pointermove", move);
    this.svg.addEventListener("pointerup", end, { once: true });
    this.svg.addEventListener("pointercancel", end, { once: true });
  }

  rectangle(region, name) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    made.setAttribute("class", name);
    this.place(made, region);
    this.svg.append(made);
    return made;
  }

  place(rectangle, region) {
    ["x", "y", "width", "height"].forEach((name, number) => rectangle.setAttribute(name, region[number]));
  }

  draw() {
    this.svg.replaceChildren();
    for (const { region } of this.found) this.rectangle(region, "found");
    for (const region of this.regions) this.rectangle(region, "region");
  }
}
