/* Fields that tell nobody what they are: Django's search of a list, and select2's, which take their own field's label. */

document.getElementById("searchbar")?.setAttribute("aria-label", "Search the list");
new MutationObserver(label).observe(document.body, { childList: true, subtree: true });
label();

function label() {
  for (const select of document.querySelectorAll("select.select2-hidden-accessible")) {
    const named = select.labels[0];
    const chooser = select.nextElementSibling?.querySelector(".select2-selection:not([data-named])");
    if (!named || !chooser) continue;
    named.id ||= `${select.id}-label`;
    const value = chooser.querySelector(".select2-selection__rendered");
    chooser.dataset.named = "";
    chooser.setAttribute("aria-labelledby", value ? `${named.id} ${value.id}` : named.id);
    chooser.setAttribute("aria-controls", `select2-${select.id}-results`);
    value?.setAttribute("aria-labelledby", named.id);
  }
  for (const search of document.querySelectorAll(".select2-search__field:not([aria-label])")) search.setAttribute("aria-label", "Search the choices");
}
