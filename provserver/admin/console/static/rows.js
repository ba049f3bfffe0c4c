// Rows of a form that are added and removed, what is shown for a choice alone, and files that are read into a text.

function choose(form) {
  for (const part of form.querySelectorAll("[data-shown-when]")) {
    const chosen = new FormData(form).getAll(part.dataset.shownWhen);
    const shown = part.dataset.values.split(" ").some((value) => chosen.includes(value));
    part.hidden = !shown;
    for (const box of part.querySelectorAll("input[name=accept]")) box.required = shown;
    for (const field of part.querySelectorAll("input[name=namePattern]")) field.required = shown;
  }
}

function options(row) {
  const list = row.querySelector("[data-options]");
  if (list) list.hidden = row.querySelector("[data-type]").value !== "list";
}

async function read(input) {
  const area = document.getElementById(input.dataset.into);
  const texts = area.value.trim() ? [area.value.trim()] : [];
  for (const file of input.files) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    let text;
    try {
      text = new TextDecoder("utf-8", {fatal: true}).decode(bytes);
    } catch { // DER: the server takes it in base64
      let binary = "";
      for (const byte of bytes) binary += String.fromCharCode(byte);
      text = btoa(binary);
    }
    texts.push(text.trim());
  }
  area.value = texts.join("\n\n") + "\n";
  input.value = "";
}

document.addEventListener("click", (event) => {
  const from = event.target.closest("button");
  if (!from) return;
  if ("addRow" in from.dataset) {
    const rows = from.closest("[data-rows]");
    rows.querySelector("[data-list]").append(rows.querySelector("template").content.cloneNode(true));
    rows.querySelector("[data-list]").lastElementChild.querySelector("input").focus();
  } else if ("removeRow" in from.dataset) {
    const rows = from.closest("[data-rows]");
    from.closest("[data-row]").remove();
    rows.querySelector("[data-add-row]").focus();
  }
});

document.addEventListener("change", (event) => {
  const from = event.target;
  if (from.form) choose(from.form);
  if ("type" in from.dataset) options(from.closest("[data-row]"));
  if (from.dataset.into) read(from);
});

function begin(root) {
  for (const form of root.querySelectorAll("form")) choose(form);
}

document.addEventListener("htmx:load", (event) => begin(event.detail.elt));
begin(document);
