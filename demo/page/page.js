// The page: reads the form, sends, and shows one request as its three sides saw it.

import { CLOSES, REFUSALS } from "./explanations.js";
import { STORIES } from "./stories.js";
import * as view from "./view.js";
import * as wire from "./wire.js";

const form = document.getElementById("controls");
const field = (name) => form.elements[name];
let current = null; // the socket on show: {socket, token, claims, saw, opened}
let logged = 0; // the number of the last log line that was read
let lines = []; // those of them that came since the last request set out

// One request

async function call() {
  leave();
  const [method, path] = field("request").value.split(" ");
  const who = field("who").value;
  const place = field("http-place").value;
  const pretend = field("pretend").checked;
  begin({ method, path, who, place, pretend });
  try {
    const known = await wire.tokenOf(who);
    const answer = await wire.call({ method, path, token: known?.token, place, pretend });
    const about = await log((all) => all.filter((line) => line.request_id === answer.requestId));
    showAnswer({ method, path, answer, about });
  } catch (error) {
    view.verdict("bad", "No answer", "The gateway can’t be reached", `The browser says: ${error.message}.`, "Is it still running?");
  }
}

function showAnswer({ method, path, answer, about }) {
  const { status, content } = answer;
  const refusal = REFUSALS[content.code];
  if (refusal) {
    view.verdict("bad", status, content.error, ...refusal);
  } else {
    const told = content.saw ? view.toldAs(content.saw) : "It answered as it chose to.";
    view.verdict(status < 400 ? "good" : "bad", status, `${method} ${path.split("?")[0]} reached the backend`, told);
  }
  view.browserGot(`${status} ${answer.phrase} in ${answer.milliseconds} ms`, content.saw ? null : content);
  view.gatewayLogged(about, !refusal);
  view.backendSaw(refusal ? null : (content.saw ?? { path, method }), refusal && content.code);
}

// One WebSocket

async function open() {
  leave();
  const path = (field("told").checked ? "/told" : "") + field("socket").value;
  const who = field("who").value;
  const place = field("socket-place").value;
  begin({ method: "GET", path, who, place, socket: true });
  const mine = { saw: null, opened: false, closed: false };
  current = mine;
  try {
    Object.assign(mine, await wire.tokenOf(who));
    await wire.open({ path, token: mine.token, place, on: {
      open: (socket) => showOpen(mine, socket),
      message: (data) => showMessage(mine, data),
      close: (event) => showClose(mine, event),
    } });
  } catch (error) {
    view.verdict("bad", "No ticket", "The gateway gave no ticket", `The answer was: ${error.message}.`, "A ticket requires a valid token.");
    const asked = (line) => line.path === "/gateway/ticket" || line.event === "http.refused";
    view.gatewayLogged(await log((all) => all.filter(asked)), false);
  }
}

async function showOpen(mine, socket) {
  if (current !== mine) return socket.close();
  Object.assign(mine, { socket, opened: true });
  view.verdict("good", "101", "The WebSocket is open", "The backend was dialled first and accepted; only then did the gateway.");
  view.browserGot(`101, subprotocol ${socket.protocol || "none"}`);
  view.live(mine.claims);
  const about = await log((all) => all.filter((line) => line.event === "ws.open"));
  if (current === mine && !mine.closed) view.gatewayLogged(about, true);
}

function showMessage(mine, data) {
  if (current !== mine) return;
  const { saw } = wire.parsed(data) ?? {};
  if (saw && !mine.saw) {
    mine.saw = saw;
    view.backendSaw(saw);
  } else {
    view.message("in", data);
  }
}

async function showClose(mine, { code, reason }) {
  if (current !== mine) return;
  mine.closed = true;
  view.live(null);
  const about = await log(endOfSocket);
  if (current !== mine) return;
  const refused = about.find((line) => line.event === "ws.refused");
  const [what, mend] = REFUSALS[refused?.code] ?? [];
  const words = reason ? `“${reason}”` : "no reason";
  if (refused) {
    const sight = code === 1006
      ? "Your page sees 1006 and no reason: browsers hide the status of a refused handshake."
      : `Your page got: ${code}, ${words}${reason.endsWith(".") ? "" : "."}`;
    view.verdict("bad", refused.status ?? code, `Refused: ${refused.code}`, `${what} ${sight}`, mend);
    view.browserGot(`closed with ${code}, ${words}`);
    view.backendSaw(null, refused.code);
  } else {
    const usual = code === 1000 || code === 4000;
    view.verdict(usual ? "good" : "bad", code, `Closed with ${code}, ${words}`, CLOSES[code] ?? "A code of the backend’s own.");
    view.browserGot(`closed with ${code}, ${words}`);
  }
  view.gatewayLogged(about, mine.opened && !refused);
}

function leave() {
  const socket = current?.socket;
  current = null;
  view.live(null);
  socket?.close();
}

async function renew() {
  const { token } = current;
  const fresh = await wire.tokenOf(field("who").value);
  const response = await wire.renew(fresh.token, token);
  if (!response.ok) return view.message("note", `not renewed: ${response.status}`);
  Object.assign(current, fresh);
  view.live(fresh.claims);
  view.message("note", "token renewed; the socket stays, and the backend notices nothing");
}

function send(message) {
  current?.socket?.send(message);
  view.message("out", message);
}

// Another site's page

async function strangerOpens(path) {
  leave();
  const who = field("who").value;
  begin({ method: "GET", path, who, place: "subprotocol", socket: true, stranger: true });
  const known = await wire.tokenOf(who);
  const outcome = await wire.openAsStranger(path, known.token);
  if (!outcome) {
    return view.verdict("bad", "No frame", "This browser does not load the other site",
      "It has to find stranger.localhost on this machine, as Chrome, Edge and Firefox do.");
  }
  const about = await log(endOfSocket);
  const [what, mend] = REFUSALS[about.find((line) => line.code)?.code] ?? ["", ""];
  view.verdict("bad", about[0]?.status ?? outcome.code, "Refused: origin_not_allowed",
    `${what} The other page, ${outcome.stranger}, saw ${outcome.code} and no reason.`, mend);
  view.browserGot(`the frame of ${outcome.stranger}: closed with ${outcome.code}`);
  view.gatewayLogged(about, false);
  view.backendSaw(null, "origin_not_allowed");
}

// What the log says

/** Return what `choose` takes of the lines since the request set out; waits a moment until it takes some. */
async function log(choose) {
  let found = [];
  for (const wait of [0, 60, 120, 250, 500]) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    await readLog();
    found = choose(lines);
    if (found.length) break;
  }
  return found;
}

/** Read on in the log. Two may ask at a time, so what the other has read meanwhile is left out. */
async function readLog() {
  const { next, lines: read } = await (await fetch(`/demo/log?after=${logged}`)).json();
  if (next > logged) lines.push(...read.slice(logged - next));
  logged = Math.max(logged, next);
}

/** The lines about the socket that was asked for, once its end is among them; not those of the one before it. */
function endOfSocket(all) {
  const first = all.find((line) => line.event === "ws.open" || line.event === "ws.refused");
  const about = all.filter((line) => line.request_id === first?.request_id);
  return about.some((line) => line.event === "ws.close" || line.event === "ws.refused") ? about : [];
}

// The form

function begin(what) {
  lines = [];
  view.begin(what);
  if (matchMedia("(max-width: 60rem)").matches) document.getElementById("way").scrollIntoView();
}

function tell({ who, request, socket, told = false, pretend = false, stranger }) {
  field("who").value = who;
  field("pretend").checked = pretend;
  field("told").checked = told;
  if (stranger) return strangerOpens(stranger);
  if (socket) {
    field("socket").value = socket;
    field("socket-place").value = "subprotocol";
    return open();
  }
  const [method, path] = request.split(" ");
  const known = [...field("request").options].some((option) => option.value === request);
  if (!known) field("request").add(new Option(`${method} ${path}`, request));
  field("request").value = request;
  field("http-place").value = "header";
  return call();
}

form.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("call").onclick = call;
document.getElementById("open").onclick = open;
document.getElementById("close").onclick = () => current?.socket?.close(1000, "the user left");
document.getElementById("renew").onclick = renew;
document.getElementById("burst").onclick = () => { for (let n = 1; n <= 10; n += 1) send(`message ${n} of 10`); };
document.getElementById("sender").onsubmit = (event) => {
  event.preventDefault();
  send(event.target.elements.message.value);
};
view.stories(STORIES, tell);
view.commands({ method: "GET", path: "/api/hello", who: "ada", place: "header" });
fetch("/demo/log?after=0").then((response) => response.json()).then(({ next }) => { logged = next; });
