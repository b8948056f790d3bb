/* The curves of the last hour: uPlot draws, the caption reads, and a table has the same data for those who can't see curves. */

import { clock, make, number } from "./format.js";

const HOUR = 3600;
const SLOT = 10;
const LATE = 4; // seconds until every process has told of a slot: before, its sum would dip
const ROW = 300; // seconds of a row of the table
const MINUTE = 60;

/**
 * Series by curve: a name, the class that has the colour, and the value of a sample; what is rare is added up over a
 * minute, so that it is the number that the figures above the curves tell.
 */
const CURVES = {
  sockets: [{ name: "live", value: (sample) => sample.sockets }],
  requests: [{ name: "requests", value: (sample) => sample.requests / SLOT }],
  messages: [{ name: "messages", value: (sample) => sample.messages / SLOT }],
  refusals: [
    { name: "refusals", minutely: true, value: (sample) => sum(Object.values(sample.refusals)) },
    { name: "errors", label: "5xx", minutely: true, value: (sample) => sample.errors },
  ],
};

/** What came in the minute up to the end of a slot; of the first minute on show, too little is known. */
function minute(at, begin, one) {
  if (at + SLOT - MINUTE < begin) return null;
  return sum(Array.from({ length: MINUTE / SLOT }, (_, n) => one(at - n * SLOT) ?? 0));
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

export class Charts {
  constructor(root) {
    this.samples = new Map(); // by slot
    this.charts = [...root.querySelectorAll("[data-curve]")].map((figure) => new Chart(figure, root));
    // Another colour scheme: the canvas has to be painted again.
    const repaint = () => this.charts.forEach((chart) => chart.repaint());
    new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  }

  /** The newest slot that is here: what to ask for next. */
  get latest() {
    return Math.max(0, ...this.samples.keys());
  }

  /** The refusals of the hour, by code. */
  get refusals() {
    const counts = new Map();
    for (const sample of this.samples.values())
      for (const [code, count] of Object.entries(sample.refusals)) counts.set(code, (counts.get(code) ?? 0) + count);
    return counts;
  }

  /** Take new samples in, and forget those of more than an hour ago. */
  update(samples, now) {
    for (const sample of samples) this.samples.set(sample.at, sample);
    const begin = now - HOUR;
    for (const at of this.samples.keys()) if (at < begin) this.samples.delete(at);
    const slots = [];
    const end = Math.min(this.latest, now - SLOT - LATE);
    for (let at = Math.ceil(begin / SLOT) * SLOT; at <= end; at += SLOT) slots.push(at);
    for (const chart of this.charts) chart.update(slots, this.samples, begin, now);
  }
}

class Chart {
  constructor(figure, root) {
    this.series = CURVES[figure.dataset.curve].map((series) => ({ ...series, label: series.label ?? series.name }));
    this.title = figure.querySelector("h2").textContent;
    this.reading = figure.querySelector(".gw-reading");
    this.plot = figure.querySelector(".gw-plot");
    this.table = figure.querySelector("table");
    this.details = figure.querySelector("details");
    this.colours = new Colours(root);
    this.details.addEventListener("toggle", () => this.tabulate());
    this.uplot = new uPlot(this.options(figure.dataset.curve), [[], ...this.series.map(() => [])], this.plot);
    new ResizeObserver(() => this.uplot.setSize(this.size())).observe(this.plot);
  }

  size() {
    return { width: this.plot.clientWidth, height: this.plot.clientHeight };
  }

  options(curve) {
    const axis = {
      stroke: () => this.colours.of("gw-ink"),
      grid: { stroke: () => this.colours.of("gw-grid"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    return {
      ...this.size(),
      padding: [8, 18, 0, 0],
      cursor: { sync: { key: "gateway" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
      legend: { show: false },
      scales: {
        x: { time: true, range: () => [this.begin ?? 0, this.end ?? HOUR] },
        y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] },
      },
      axes: [
        { ...axis, size: 26, space: 60, values: (_, splits) => splits.map((at) => clock(at, false)) },
        { ...axis, size: 44, space: 32, values: (_, splits) => splits.map(number) },
      ],
      series: [
        {},
        ...this.series.map((series, n) => {
          const name = n === 0 ? curve : series.name;
          return {
            label: series.label,
            width: 1.5,
            stroke: () => this.colours.of(`gw-curve-${name}`),
            fill: () => this.colours.of(`gw-curve-${name}`, 0.12),
            points: { show: false },
          };
        }),
      ],
      hooks: { setCursor: [() => this.read()] },
    };
  }

  update(slots, samples, begin, end) {
    this.begin = begin;
    this.end = end;
    this.slots = slots;
    // A slot without a sample is a gap: no process was there.
    this.values = this.series.map(({ value, minutely }) => {
      const one = (at) => (samples.has(at) ? value(samples.get(at)) : null);
      return slots.map((at) => (minutely && samples.has(at) ? minute(at, begin, one) : one(at)));
    });
    this.uplot.setData([slots, ...this.values]);
    this.read();
    this.tabulate();
  }

  repaint() {
    this.colours.forget();
    this.uplot.redraw(false, true);
  }

  /** The caption: the values under the pointer, or the last ones and the highest. */
  read() {
    if (!this.values) return;
    const index = this.uplot.cursor.idx;
    const parts = this.series.map(({ label }, n) => {
      const values = this.values[n];
      const known = values.filter((value) => value !== null);
      const name = this.series.length > 1 ? `${label} ` : "";
      if (!known.length) return `${name}–`;
      if (index !== null && index !== undefined) return `${name}${number(values[index])}`;
      return `${name}${number(known.at(-1))}, at most ${number(Math.max(...known))}`;
    });
    const when = index !== null && index !== undefined && this.slots[index] ? `${clock(this.slots[index])}  ` : "";
    this.reading.textContent = when + parts.join(" · ");
    if (!when) this.plot.setAttribute("aria-label", `${this.title}, the last hour: ${parts.join("; ")}`);
  }

  /** Every five minutes one row: the mean and the highest. */
  tabulate() {
    if (!this.details.open || !this.values) return;
    const heads = this.series.flatMap(({ label }) => (this.series.length > 1 ? [`${label}, mean`, `${label}, most`] : ["mean", "most"]));
    this.table.tHead.replaceChildren(make("tr", {}, make("th", { scope: "col" }, "from"), ...heads.map((head) => make("th", { scope: "col", class: "number" }, head))));
    const rows = new Map();
    this.slots.forEach((at, n) => {
      const row = Math.floor(at / ROW) * ROW;
      rows.set(row, [...(rows.get(row) ?? []), n]);
    });
    this.table.tBodies[0].replaceChildren(
      ...[...rows].reverse().map(([at, indexes]) => {
        const cells = this.values.flatMap((values) => {
          const known = indexes.map((n) => values[n]).filter((value) => value !== null);
          return known.length ? [sum(known) / known.length, Math.max(...known)] : [null, null];
        });
        return make("tr", {}, make("th", { scope: "row" }, clock(at, false)), ...cells.map((cell) => make("td", { class: "number" }, number(cell))));
      }),
    );
  }
}

/** Colours out of the style sheet, as the canvas wants them. */
class Colours {
  constructor(root) {
    this.root = root;
    this.known = new Map();
  }

  of(name, alpha = 1) {
    const key = `${name} ${alpha}`;
    if (!this.known.has(key)) {
      const probe = this.root.appendChild(make("span", { class: name, hidden: "" }));
      const [red, green, blue] = getComputedStyle(probe).color.match(/[\d.]+/g);
      probe.remove();
      this.known.set(key, `rgb(${red} ${green} ${blue} / ${alpha})`);
    }
    return this.known.get(key);
  }

  forget() {
    this.known.clear();
  }
}
