/* On a phone a row of a list is a card without a head: each value says what it is. */

export function name(list) {
  const heads = [...list.querySelectorAll("#result_list thead th")].map((head) => (head.querySelector(".text") ?? head).textContent.trim());
  for (const row of list.querySelectorAll("#result_list tbody tr"))
    [...row.children].forEach((cell, n) => {
      if (cell.localName === "td" && !cell.classList.contains("action-checkbox")) cell.dataset.name = heads[n];
    });
}

name(document);
