/* A list of the admin that updates by itself, unless somebody is just about to do something with it. */

import { name } from "./cards.js";
import { clock } from "./format.js";

const PERIOD = 1000; // ms, or five times as long as an answer takes
const form = document.getElementById("changelist-form");
const wanted = document.getElementById("live");
const state = document.getElementById("live-state");

if (form && wanted) follow();

async function follow() {
  form.addEventListener("click", count);
  form.addEventListener("change", count);
  for (;;) {
    const began = performance.now();
    if (!busy()) await refresh();
    await pause(Math.max(PERIOD, 5 * (performance.now() - began)));
  }
}

/** Rows must not move under a pointer, a keyboard's focus or a choice. */
function busy() {
  const results = form.querySelector(".results");
  return (
    !wanted.checked ||
    document.hidden ||
    form.contains(document.activeElement) ||
    Boolean(results?.matches(":hover")) ||
    Boolean(form.querySelector("input.action-select:checked")) ||
    Boolean(form.querySelector("select[name=action]")?.value)
  );
}

async function refresh() {
  let page;
  try {
    const response = await fetch(location.href, { signal: AbortSignal.timeout(10000) });
    if (response.redirected) throw new Error("you are logged out; load the page again");
    if (!response.ok) throw new Error(`the gateway answers ${response.status}`);
    page = new DOMParser().parseFromString(await response.text(), "text/html");
  } catch (failure) {
    state.textContent = `Not updated: ${failure.name === "TimeoutError" ? "no answer" : failure.message}.`;
    return;
  }
  if (busy()) return; // meanwhile
  replace(page);
  state.textContent = `as of ${clock(Date.now() / 1000)}`;
}

/** Put the new rows in. Django's script holds on to the table's body and the line of actions, so these stay. */
function replace(page) {
  const fresh = page.getElementById("changelist-form");
  const [body, newBody] = [form, fresh].map((each) => each.querySelector("#result_list tbody"));
  name(fresh);
  if (body && newBody) {
    body.replaceChildren(...newBody.children);
    for (const part of [".paginator", ".gw-empty"]) form.querySelector(part)?.replaceChildren(...(fresh.querySelector(part)?.childNodes ?? []));
    const [counter, newCounter] = [form, fresh].map((each) => each.querySelector(".action-counter"));
    if (counter && newCounter) {
      counter.dataset.actionsIcnt = newCounter.dataset.actionsIcnt;
      counter.textContent = newCounter.textContent;
    }
  } else {
    form.replaceChildren(...fresh.childNodes);
    const boxes = form.querySelectorAll("tr input.action-select");
    if (boxes.length) window.Actions?.(boxes);
  }
  const notices = document.getElementById("notices");
  notices?.replaceChildren(...(page.getElementById("notices")?.childNodes ?? []));
}

/** Choosing all, and the number that is chosen: Django's script knows the rows of the first load only. */
function count(event) {
  const boxes = [...form.querySelectorAll("input.action-select")];
  if (event.target.id === "action-toggle")
    for (const box of boxes) {
      box.checked = event.target.checked;
      box.closest("tr").classList.toggle("selected", box.checked);
    }
  const counter = form.querySelector(".action-counter");
  if (!counter || event.target.type !== "checkbox") return;
  const chosen = boxes.filter((box) => box.checked).length;
  counter.textContent = `${chosen} of ${counter.dataset.actionsIcnt} selected`;
  form.querySelector("#action-toggle").checked = chosen === boxes.length && chosen > 0;
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
