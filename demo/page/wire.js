// What the browser sends: one request or one WebSocket, with the token in the place that was asked for.

const COOKIE = "auth_token";
const PARAMETER = "token";
const SUBPROTOCOL = "demo.v1";

/** Return {token, claims} of one of the demo's people, or null for nobody. */
export async function tokenOf(who) {
  if (who === "nobody") return null;
  return (await fetch(`/demo/token/${who}`)).json();
}

/** Send a request; give what was sent and what came back. */
export async function call({ method, path, token, place, pretend }) {
  const headers = pretend ? { "X-User-ID": "999", "X-User-Role": "admin" } : {};
  const body = method === "POST" ? JSON.stringify({ note: "Hello, backend" }) : undefined;
  if (body) headers["Content-Type"] = "application/json";
  if (token && place === "header") headers.Authorization = `Bearer ${token}`;
  const started = performance.now();
  const response = await withCookie(token && place === "cookie" && token, () =>
    fetch(token && place === "query" ? withParameter(path, PARAMETER, token) : path, { method, headers, body }));
  const text = await response.text();
  return {
    status: response.status,
    phrase: response.statusText,
    milliseconds: Math.round(performance.now() - started),
    requestId: response.headers.get("X-Request-ID"),
    content: parsed(text) ?? text,
  };
}

/** Open a WebSocket; `on` has the functions open, message and close. TypeError: no ticket was given. */
export async function open({ path, token, place, on }) {
  // A browser refuses a handshake that offers subprotocols and chooses none: a real one goes beside the token.
  const protocols = token && place === "subprotocol" ? [SUBPROTOCOL, `bearer.${token}`] : [SUBPROTOCOL];
  let target = path;
  if (token && place === "query") target = withParameter(path, PARAMETER, token);
  if (token && place === "ticket") target = withParameter(path, "ticket", await ticketFor(path, token));
  await withCookie(token && place === "cookie" && token, () => new Promise((resolve) => {
    const socket = new WebSocket(location.origin.replace(/^http/, "ws") + target, protocols);
    socket.onopen = () => { resolve(); on.open(socket); };
    socket.onclose = (event) => { resolve(); on.close(event); };
    socket.onmessage = ({ data }) => on.message(data);
  }));
}

/** Move the deadline of the open sockets of an old token to that of a fresh one. */
export async function renew(fresh, previous) {
  const headers = { Authorization: `Bearer ${fresh}`, "Content-Type": "application/json" };
  return fetch("/gateway/session", { method: "POST", headers, body: JSON.stringify({ previous }) });
}

/** Let a page of another site open the socket, in a frame; give how that ended, or null where no frame loads. */
export function openAsStranger(path, token) {
  const frame = document.createElement("iframe");
  frame.src = `http://stranger.localhost:${location.port}/demo/stranger`;
  frame.hidden = true;
  return new Promise((resolve) => {
    const give = (outcome) => {
      removeEventListener("message", listen);
      clearTimeout(patience);
      frame.remove();
      resolve(outcome);
    };
    const listen = ({ data, source, origin }) => {
      if (source !== frame.contentWindow) return;
      if (!data.ready) return give(data);
      const url = location.origin.replace(/^http/, "ws") + path;
      source.postMessage({ url, protocols: [SUBPROTOCOL, `bearer.${token}`] }, origin);
    };
    const patience = setTimeout(give, 5000, null);
    addEventListener("message", listen);
    document.body.append(frame);
  });
}

async function ticketFor(path, token) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const body = JSON.stringify({ path: path.split("?")[0] });
  const response = await fetch("/gateway/ticket", { method: "POST", headers, body });
  const { ticket, code } = await response.json();
  if (!ticket) throw new TypeError(`no ticket: ${response.status} ${code}`);
  return ticket;
}

async function withCookie(token, send) {
  if (!token) return send();
  document.cookie = `${COOKIE}=${token}; path=/; SameSite=Strict`;
  try {
    return await send();
  } finally {
    document.cookie = `${COOKIE}=; path=/; Max-Age=0; SameSite=Strict`;
  }
}

const withParameter = (path, name, value) => `${path}${path.includes("?") ? "&" : "?"}${name}=${value}`;

export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
