// A WebSocket through the gateway that stays connected: copy this file into your frontend. Usage: docs/websockets.md.

const AGAIN = new Set([1001, 1006, 1011, 1012, 1013, 1014, 4401, 4408, 4429, 4502, 4503, 4504]);
const FIRST_DELAY = 1000; // ms; doubled with each failure; the actual delay is a random part of it
const LONGEST_DELAY = 30_000; // ms
const STEADY = 5000; // ms; a socket that lived this long was not a failure
const MARGIN = 60_000; // ms before a token expires, when it is renewed; a quarter of what is left, if that is less
const LONGEST_TIMER = 2 ** 31 - 1; // ms

export class GatewaySocket {
  #options;
  #socket = null;
  #stop = new AbortController();

  /**
   * Connect, and reconnect until `close` is called or another try would not help.
   *
   * @param {string} path Of the WebSocket: "/ws/chat", optionally with a query.
   * @param {object} options
   * @param {() => string | Promise<string>} options.token Gives a fresh token each time; if it throws, it is called again later.
   * @param {string} [options.gateway] Its origin, if it is not the page's own.
   * @param {string[]} [options.protocols] Subprotocols to offer.
   * @param {(socket: WebSocket) => void} [options.onopen] After each connection.
   * @param {(data: string | Blob) => void} [options.onmessage]
   * @param {(why: {code: number, reason: string, delay: number}) => void} [options.onretry] The next try is in `delay` ms.
   * @param {(why: {code: number, reason: string}) => void} [options.onend] Final: close(), 4403, or the backend's wish.
   */
  constructor(path, options) {
    this.#options = { gateway: location.origin, protocols: [], ...options, path };
    this.#live();
  }

  /** Send to the backend; false if there is no connection right now. */
  send(data) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(data);
    return true;
  }

  close(code = 1000, reason = "") {
    this.#stop.abort();
    this.#socket?.close(code, reason);
  }

  async #live() {
    for (let failures = 0; ;) {
      const began = Date.now();
      const end = await this.#once().catch((error) => ({ code: 1006, reason: String(error) }));
      if (this.#stop.signal.aborted || !AGAIN.has(end.code)) return this.#options.onend?.(end);
      failures = Date.now() - began < STEADY ? failures + 1 : 0;
      const most = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** failures);
      const delay = Math.max(end.retryAfter ?? 0, Math.random() * most);
      this.#options.onretry?.({ code: end.code, reason: end.reason, delay });
      await this.#pause(delay);
      if (this.#stop.signal.aborted) return this.#options.onend?.({ code: 1000, reason: "" });
    }
  }

  /** One connection, from its ticket to its end. */
  async #once() {
    const { gateway, path, protocols, onopen, onmessage } = this.#options;
    const token = await this.#options.token();
    const answer = await this.#post("/gateway/ticket", token, { path: path.split("?")[0] });
    if (this.#stop.signal.aborted) return { code: 1000, reason: "" };
    if (!answer.ok) return refused(answer);
    const { ticket } = await answer.json();
    const url = new URL(path, gateway.replace(/^http/, "ws"));
    url.searchParams.set("ticket", ticket);
    const socket = this.#socket = new WebSocket(url, protocols);
    const ended = new AbortController();
    socket.onopen = () => {
      this.#keep(token, ended.signal);
      onopen?.(socket);
    };
    socket.onmessage = ({ data }) => onmessage?.(data);
    return new Promise((resolve) => {
      socket.onclose = ({ code, reason }) => {
        ended.abort();
        resolve({ code, reason });
      };
    });
  }

  /** Renew the socket's token before the old one expires; if that fails, 4401 leads to a new connection. */
  async #keep(token, ended) {
    for (;;) {
      const left = expiry(token) - Date.now();
      if (!(left > 1000)) return;
      await this.#pause(Math.min(left - Math.min(MARGIN, left / 4), LONGEST_TIMER));
      if (ended.aborted) return;
      try {
        const fresh = await this.#options.token();
        const answer = await this.#post("/gateway/session", fresh, { previous: token });
        if (answer.ok) token = fresh;
      } catch {
        // no token, or no network: there is still some time left
      }
    }
  }

  #post(path, token, body) {
    return fetch(new URL(path, this.#options.gateway), {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  }

  #pause(milliseconds) {
    const { signal } = this.#stop;
    return new Promise((resolve) => {
      const go = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", go);
        resolve();
      };
      const timer = setTimeout(go, milliseconds);
      signal.addEventListener("abort", go);
    });
  }
}

/** The close code that corresponds to the refusal of a ticket. */
async function refused(answer) {
  const { code = answer.statusText } = await answer.json().catch(() => ({}));
  const seconds = Number(answer.headers.get("Retry-After"));
  const closed = { 401: 4401, 429: 4429 }[answer.status] ?? (answer.status < 500 ? 4403 : 4503);
  return { code: closed, reason: code, retryAfter: seconds ? 1000 * seconds : undefined };
}

/** When a token expires, in ms; NaN if it is not a JWT. */
function expiry(token) {
  try {
    return 1000 * JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).exp;
  } catch {
    return NaN;
  }
}
