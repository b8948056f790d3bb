/* The dashboard: asks for the figures every two seconds, and shows them. */

import { Charts } from "./charts.js";
import { clock, latency, link, make, number, span } from "./format.js";

const PERIOD = 2000; // ms
const PATIENCE = 8000; // ms until an answer counts as none

const root = document.getElementById("gateway");
const addresses = root?.dataset;
const STATES = { serving: "good", draining: "warn", gone: "bad" };
const HEALTH = {
  up: ["up", "good"],
  partly: ["partly up", "warn"],
  down: ["down", "bad"],
  unasked: ["not asked", ""],
  unknown: ["not known yet", ""],
  disabled: ["disabled", ""],
};

if (root) watch(new Charts(root));

/** Ask again and again, while somebody can see it. */
async function watch(charts) {
  let heard = null;
  for (;;) {
    try {
      const figures = await ask(charts.latest);
      show(figures, charts);
      heard = figures.now;
    } catch (failure) {
      silence(failure, heard);
    }
    await pause();
  }
}

async function ask(since) {
  const response = await fetch(`${addresses.figures}?since=${since}`, {
    headers: { Accept: "application/json" },
    signal: AbortSignal.timeout(PATIENCE),
  });
  if (response.redirected || response.status === 403) throw new Error("you are logged out; load the page again");
  if (!response.ok) throw new Error(`the gateway answers ${response.status}`);
  return response.json();
}

function pause() {
  return new Promise((resolve) => {
    setTimeout(() => {
      if (!document.hidden) return resolve();
      document.addEventListener("visibilitychange", () => resolve(), { once: true });
    }, PERIOD);
  });
}

/** No answer: mark the figures on show as old. */
function silence(failure, heard) {
  root.dataset.stale = "true";
  const reason = failure.name === "TimeoutError" ? "no answer" : failure.message;
  const since = heard ? ` These figures are from ${clock(heard)}.` : "";
  verdict("bad", `No figures: ${reason}.${since}`, []);
}

function show(figures, charts) {
  root.dataset.stale = "false";
  root.setAttribute("aria-busy", "false");
  const { problems } = figures;
  if (problems.length) verdict("bad", problems.length === 1 ? "One thing needs attention" : `${problems.length} things need attention`, problems);
  else verdict("good", "All is well", []);
  setText(document.getElementById("asof"), `${clock(figures.now)}, updated every 2 s`);
  charts.update(figures.samples, figures.now);
  tiles(figures.totals);
  rows("backends", figures.backends.map(backend), "No backend yet.");
  rows("refusals", refusals(figures.refusals, charts.refusals), "None in the last hour.");
  rows("routes", figures.routes.map(route), "No live socket.");
  rows("processes", figures.processes.map((each) => process(each, figures)), "No process has reported yet.");
  facts(figures);
}

/** Announced by screen readers, so it changes only when its text does. */
function verdict(state, text, problems) {
  document.querySelector(".gw-verdict").dataset.state = state;
  setText(document.getElementById("verdict"), text);
  const list = document.getElementById("problems");
  if ([...list.children].map((item) => item.textContent).join("\n") !== problems.map(({ text }) => text).join("\n"))
    list.replaceChildren(...problems.map((problem) => make("li", {}, link(place(problem), problem.text))));
}

/** Where there is more about a problem. */
function place({ backend }) {
  if (backend === null) return addresses.processes;
  return addresses.backends && `${addresses.backends}${backend}/change/`;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function tiles(totals) {
  const shown = { ...totals, latency: totals.p50 === null ? null : `${latency(totals.p50)} · ${latency(totals.p99)}` };
  for (const tile of document.querySelectorAll("[data-total]")) {
    const name = tile.dataset.total;
    const text = name === "latency" ? (shown.latency ?? "–") : number(shown[name]);
    const address = { sockets: addresses.connections, refusals: addresses.refusals }[name];
    if (tile.textContent !== text) tile.replaceChildren(link(address, text));
    tile.classList.toggle("small", name === "latency");
    tile.parentElement.classList.toggle("alarm", name === "errors" && totals.errors > 0);
  }
}

/** Fill a table; the keyboard's place in it stays. */
function rows(id, found, nothing) {
  const body = document.querySelector(`#${id} tbody`);
  const heads = [...document.querySelectorAll(`#${id} thead th`)].map((head) => head.textContent);
  const focused = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  body.replaceChildren(...(found.length ? found : [make("tr", {}, make("td", { colspan: heads.length, class: "quiet" }, nothing))]));
  // On a phone a row is a card: its numbers say what they are.
  for (const row of body.rows) for (const [n, cell] of [...row.cells].entries()) if (!cell.matches(".wide, [colspan]")) cell.dataset.name = heads[n];
  if (focused) body.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

const cell = (...children) => make("td", {}, ...children);
const figure = (text) => make("td", { class: "number" }, text);
const badge = (text, tone) => make("span", { class: `gw-state ${tone}` }, text);

function backend(each) {
  const [text, tone] = HEALTH[each.state];
  const failing = each.failures > 0;
  const out = each.urls.filter((url) => url.up < url.seen).map((url) => make("span", { class: "gw-cause" }, `${url.url}: ${url.cause}`));
  const failure = failing ? make("span", { class: "gw-cause" }, `${each.failures} failed in the last minute: ${each.failure}`) : null;
  const hint = each.state === "unasked" && !failing ? make("span", { class: "gw-note" }, "it has no health path") : null;
  const state = failing && each.state !== "down" ? badge("failing", "bad") : badge(text, tone);
  return make(
    "tr",
    {},
    make("th", { scope: "row", class: "wide" }, link(addresses.backends && `${addresses.backends}${each.id}/change/`, each.name)),
    make("td", { class: "wide" }, state, ...out, failure, hint),
    figure(number(each.answers)),
    figure(latency(each.p50)),
    figure(latency(each.p99)),
  );
}

function refusals(minute, hour) {
  // The minute's are not all in the hour's samples yet.
  const codes = new Map(hour);
  for (const [code, count] of Object.entries(minute)) codes.set(code, Math.max(count, codes.get(code) ?? 0));
  return [...codes]
    .sort(([, one], [, other]) => other - one)
    .map(([code, count]) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, link(addresses.refusals && `${addresses.refusals}?code=${encodeURIComponent(code)}`, code)),
        figure(number(minute[code] ?? 0)),
        figure(number(count)),
      ),
    );
}

function route(each) {
  const address = addresses.connections && `${addresses.connections}?route=${encodeURIComponent(each.route)}`;
  return make("tr", {}, make("th", { scope: "row" }, link(address, each.route)), cell(each.backend), figure(number(each.sockets)));
}

function process(each, figures) {
  const gone = each.state === "gone";
  const heard = gone ? make("span", { class: "gw-note" }, `last heard from ${span(each.silence)} ago`) : null;
  const values = [each.sockets, each.requests, each.messages, each.refusals].map((value) => (gone ? "–" : number(value)));
  const cells = [
    make("th", { scope: "row", class: "wide" }, each.name),
    make("td", { class: "wide" }, badge(each.state, STATES[each.state]), heard),
    ...values.map(figure),
    figure(latency(each.p50)),
    figure(latency(each.p99)),
    make("td", { class: "wide" }, ...configuration(each, figures.revision)),
    cell(each.version),
    cell(gone ? "–" : span(figures.now - each.started)),
  ];
  return make("tr", {}, ...cells);
}

function configuration(each, revision) {
  if (each.state === "gone") return ["–"];
  if (each.config_error) return [badge("old", "bad"), make("span", { class: "gw-cause" }, `${span(each.config_age)} old: ${each.config_error}`)];
  if (each.revision !== revision) return [badge(`revision ${each.revision}`, "warn"), make("span", { class: "gw-note" }, `${revision} is on its way`)];
  return [`revision ${each.revision}`];
}

function facts(figures) {
  const living = figures.processes.filter((each) => each.state !== "gone");
  const current = living.filter((each) => each.revision === figures.revision && !each.config_error);
  const enabled = figures.backends.filter((each) => each.state !== "disabled");
  const told = [
    ["configuration", `revision ${figures.revision}, in force in ${current.length} of ${living.length} ${living.length === 1 ? "process" : "processes"}`],
    ["backends", `${enabled.length} enabled, ${figures.backends.length - enabled.length} disabled`],
    ["database", `${figures.database.vendor}, answers in ${latency(figures.database.seconds)}`],
  ];
  document.getElementById("facts").replaceChildren(...told.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
}
