/* Numbers, times and elements, as the pages show them. */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** A count or a rate: exact while it is small, three digits when it is large; nothing is shown as a dash. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (Math.abs(value) >= 100000) return short.format(value);
  if (Math.abs(value) >= 10 || Number.isInteger(value)) return whole.format(value);
  return value.toFixed(value < 1 ? 2 : 1);
}

/** Seconds as a time that somebody waits. */
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds >= 9.95) return `${seconds.toFixed(0)} s`;
  if (seconds >= 0.9995) return `${seconds.toFixed(1)} s`;
  const milliseconds = seconds * 1000;
  return `${milliseconds >= 9.95 ? milliseconds.toFixed(0) : milliseconds.toFixed(1)} ms`;
}

/** Seconds as a span, in its largest unit. */
export function span(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]])
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  return `${Math.max(0, Math.floor(seconds))} s`;
}

/** Unix time as the time of day, here. */
export function clock(unix, seconds = true) {
  return new Date(unix * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(seconds && { second: "2-digit" }) });
}

/** An element with attributes and children; text stays text. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A link where there is something to link to, and the text alone where there isn't. */
export function link(address, text) {
  return address ? make("a", { href: address }, text) : text;
}
