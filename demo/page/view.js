// What is drawn: the verdict, the three stations, the messages and the commands. Text only, never markup from outside.

const byId = (id) => document.getElementById(id);
const PLACES = { header: "Authorization: Bearer …", cookie: "Cookie: auth_token=…", query: "?token=…",
  subprotocol: "Sec-WebSocket-Protocol: demo.v1, bearer.…", ticket: "?ticket=…" };
const NAMES = { ada: "Ada’s token", grace: "Grace’s token", bo: "Bo’s token", yesterday: "Ada’s old token", eve: "Eve’s forgery" };
const SHOWN_FIELDS = ["code", "detail", "status", "close_code", "reason", "closed_by", "user_id", "route", "backend", "origin",
  "duration_ms"];
const MADE_UP = ["X-User-ID: 999", "X-User-Role: admin"];
const DEMO = `${location.port === "8000" ? "" : `PORT=${location.port} `}.venv/bin/python -m demo`;
let clock = 0;

/** Make an element: `make("p", "class", ...children)`; children are elements or text. */
function make(name, className, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

const originOf = (stranger) => (stranger ? `http://stranger.localhost:${location.port}` : location.origin);
const state = (id, value) => { byId(id).dataset.state = value; };

export function verdict(tone, stamp, headline, explanation, mend) {
  byId("verdict").dataset.tone = tone;
  byId("stamp").textContent = stamp;
  byId("headline").textContent = headline;
  byId("explanation").textContent = explanation;
  byId("mend").hidden = !mend;
  byId("mend").replaceChildren(make("b", "", "To fix it: "), mend ?? "");
}

/** Clear the way and show what sets out. */
export function begin({ method, path, who, place, pretend, socket, stranger }) {
  verdict("wait", "…", socket ? `Opening ${path}` : `${method} ${path}`, "On its way.");
  const sent = [make("p", "wire", `${socket ? "WebSocket" : method} ${path}`)];
  if (NAMES[who]) sent.push(make("p", "wire", make("span", "tag", NAMES[who]), ` ${PLACES[place]}`));
  if (socket) sent.push(make("p", "wire", `Origin: ${originOf(stranger)}`));
  if (pretend) sent.push(...MADE_UP.map((field) => make("p", "wire lie", field)));
  byId("browser-body").replaceChildren(...sent);
  byId("gateway-body").replaceChildren(make("p", "quiet", "Deciding."));
  byId("backend-body").replaceChildren(make("p", "quiet", "Nothing has arrived yet."));
  byId("messages").replaceChildren();
  byId("messages").hidden = true;
  state("browser", "good");
  state("gateway", "wait");
  state("backend", "idle");
  commands({ method, path, who, place, pretend, socket, stranger });
}

export function browserGot(text, content) {
  const body = byId("browser-body");
  body.querySelectorAll(".got").forEach((old) => old.remove());
  body.append(make("p", "wire got", "← ", text));
  if (content) body.append(make("pre", "got", typeof content === "string" ? content : JSON.stringify(content, null, 2)));
}

/** Show the log's lines; `passed` says whether the gateway let the request through. What a line repeats is left out. */
export function gatewayLogged(lines, passed) {
  state("gateway", passed ? "good" : "bad");
  const told = {};
  const shown = lines.map((line) => {
    const fresh = SHOWN_FIELDS.filter((name) => (line[name] ?? "") !== "" && line[name] !== told[name]);
    Object.assign(told, line);
    const facts = fresh.flatMap((name) => [make("dt", "", name), make("dd", "", String(line[name]))]);
    const whole = make("details", "", make("summary", "", "the whole line"), make("pre", "", JSON.stringify(line, null, 1)));
    return make("article", "line", make("p", "event", line.event), make("dl", "", ...facts), whole);
  });
  byId("gateway-body").replaceChildren(...(shown.length ? shown : [make("p", "quiet", "It has not logged anything about this yet.")]));
}

/** Show the request as the backend had it; null: it never got there, for the reason of that code. */
export function backendSaw(saw, code) {
  const body = byId("backend-body");
  if (!saw) {
    const dialled = ["backend_refused", "backend_unreachable", "backend_timeout", "backend_protocol_error"].includes(code);
    state("backend", dialled ? "bad" : "idle");
    const text = { backend_refused: "It was asked, with your identity and the browser’s Origin, and it refused." }[code]
      ?? (dialled ? "The gateway tried, and got no valid answer." : "It never saw this. The gateway refused first.");
    return body.replaceChildren(make("p", "quiet", text));
  }
  state("backend", "good");
  if (!saw.headers) return body.replaceChildren(make("p", "quiet", "It answered with what you see above."));
  const rows = saw.headers.map(([name, value]) => {
    const kind = /^x-user-/i.test(name) ? "identity" : /^(x-forwarded-|x-request-id)/i.test(name) ? "added" : "";
    return make("tr", kind, make("th", "", name), make("td", "", value));
  });
  rows.forEach((row) => row.firstChild.setAttribute("scope", "row"));
  const order = { identity: 0, added: 1, "": 2 };
  rows.sort((a, b) => order[a.className] - order[b.className]);
  const table = make("table", "", make("caption", "", `${saw.method} ${saw.path}`), make("tbody", "", ...rows));
  const notes = [anonymous(saw) ? "No X-User-* header: nobody is logged in." : "The identity comes from the token.",
    "The token itself was removed."];
  if (saw.extensions?.length) notes.push(`${saw.extensions.join(", ")}: agreed with your browser, end to end.`);
  if (saw.body) notes.push(`Body: ${saw.body_bytes} bytes, unchanged.`);
  body.replaceChildren(table, make("p", "quiet", notes.join(" ")));
}

const anonymous = (saw) => !saw.headers.some(([name]) => name.toLowerCase() === "x-user-id");

/** Say in a sentence whom the backend believes to speak with. */
export function toldAs(saw) {
  if (anonymous(saw)) return "The route is public, and the backend got no identity.";
  const value = (wanted) => saw.headers.find(([name]) => name.toLowerCase() === wanted)?.[1];
  return `The backend knows you as user ${value("x-user-id")}, ${value("x-user-email")}, role ${value("x-user-role")}. ` +
    "It never saw the token.";
}

const ARROWS = { in: ["←", "from the backend"], out: ["→", "to the backend"], note: ["•", "note"] };

export function message(direction, text) {
  const list = byId("messages");
  const [arrow, label] = ARROWS[direction];
  const mark = make("span", "arrow", arrow);
  mark.setAttribute("aria-label", label);
  list.hidden = false;
  list.append(make("li", direction, mark, " ", text));
  while (list.children.length > 50) list.firstChild.remove();
  list.scrollTop = list.scrollHeight;
}

/** Show the open socket's buttons and its token's last seconds; null hides them. */
export function live(claims) {
  clearInterval(clock);
  byId("live").hidden = !claims;
  if (!claims) return;
  const tick = () => {
    const left = Math.max(0, Math.ceil(claims.exp - Date.now() / 1000));
    byId("deadline").textContent = `token ends in ${left > 90 ? `${Math.round(left / 60)} min` : `${left} s`}`;
  };
  tick();
  clock = setInterval(tick, 1000);
}

export function commands({ method, path, who, place, pretend, socket, stranger }) {
  const plain = path.split("?")[0];
  const token = who === "nobody" ? "" : ' --token "$TOKEN"';
  const lies = pretend ? MADE_UP : [];
  byId("explain").textContent = `${DEMO} explain ${method} '${plain}'` +
    (socket ? ` --websocket --origin ${originOf(stranger)}` : "") + lies.map((field) => ` --header '${field}'`).join("") + token;
  const fields = lies.map((field) => `-H '${field}'`);
  if (who !== "nobody" && place !== "query") fields.push('-H "Authorization: Bearer $TOKEN"');
  if (socket) {
    fields.push(`-H 'Origin: ${originOf(stranger)}'`, "-H 'Connection: Upgrade'", "-H 'Upgrade: websocket'",
      "-H 'Sec-WebSocket-Version: 13'", "-H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='");
  } else if (method !== "GET") {
    fields.push(`-X ${method} -d '{"note": "Hello, backend"}'`);
  }
  const query = who !== "nobody" && place === "query" ? `${path.includes("?") ? "&" : "?"}token=$TOKEN` : "";
  const flags = `-si --path-as-is${socket ? " --http1.1 -m 2" : ""}`;
  byId("repeat").textContent = `curl ${flags} ${fields.join(" ")} "${location.origin}${path}${query}"`.replace(/ {2,}/g, " ");
  const other = who !== "nobody" && who !== "ada" ? " (TOKEN is Ada’s, from the start’s output; issue_token makes others)" : "";
  byId("repeat-label").textContent = `The same by hand${other}:`;
}

export function stories(all, tell) {
  byId("stories").replaceChildren(...all.map((story) => {
    const button = make("button", "story", make("b", "", story.title), make("small", "", story.says));
    button.type = "button";
    button.onclick = () => tell(story);
    return make("li", "", button);
  }));
}

document.addEventListener("click", async ({ target }) => {
  if (!target.dataset?.copy) return;
  await navigator.clipboard.writeText(byId(target.dataset.copy).textContent);
  target.textContent = "Copied";
  setTimeout(() => { target.textContent = "Copy"; }, 1500);
});
