// Rows that are selected to act on all of them, and inputs that belong to one choice of several.

function watch(form) {
  const all = form.querySelector("[data-select-all]");
  const bar = form.querySelector("[data-select-bar]");
  const said = form.querySelector("[data-select-count]");
  const boxes = [...form.querySelectorAll('tbody input[type="checkbox"]')];
  const empty = said.textContent;

  function count() {
    const chosen = boxes.filter((box) => box.checked).length;
    all.checked = chosen > 0 && chosen === boxes.length;
    all.indeterminate = chosen > 0 && chosen < boxes.length;
    bar.classList.toggle("some", chosen > 0);
    said.textContent = chosen ? `${chosen} of ${boxes.length} on this page selected.` : empty;
  }

  form.addEventListener("change", (event) => {
    if (event.target === all) for (const box of boxes) box.checked = all.checked;
    count();
  });
  count();
}

function choose(group) {
  function show() {
    const chosen = group.querySelector("input[type=radio]:checked")?.value ?? "";
    for (const part of group.querySelectorAll("[data-choice-of]")) {
      part.hidden = part.dataset.choiceOf !== chosen;
      for (const input of part.querySelectorAll("input, textarea")) input.disabled = part.hidden;
    }
  }

  group.addEventListener("change", show);
  show();
}

const seen = new WeakSet();

function begin(root) {
  for (const [selector, work] of [["[data-select]", watch], ["[data-choice]", choose]]) {
    for (const each of [...(root.matches?.(selector) ? [root] : []), ...root.querySelectorAll(selector)]) {
      if (seen.has(each)) continue;
      seen.add(each);
      work(each);
    }
  }
}

begin(document);
document.addEventListener("htmx:load", (event) => begin(event.detail.elt));
