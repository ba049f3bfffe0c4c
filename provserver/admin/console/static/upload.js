// A CSV file that becomes devices or static tokens: it is kept here, checked by the server as often as its columns are
// mapped otherwise, and sent once more when it is to be imported.

const NOT_CSV = /\.(xlsx?|xlsm|ods|numbers)$/i;

function token() {
  return JSON.parse(document.body.getAttribute("hx-headers") ?? "{}")["X-CSRF-Token"] ?? "";
}

function upload(form) {
  const input = form.elements.namedItem("file");
  const profile = form.elements.namedItem("profile");
  const drop = form.querySelector("[data-drop]");
  const report = form.querySelector("[data-report]");
  const fault = form.querySelector("[data-fault]");
  const progress = form.querySelector("[data-progress]");
  const bar = progress.querySelector("progress");
  const said = progress.querySelector("[data-said]");
  let file = null;
  let mapping = new Map();
  let sending = null;
  let making = false;

  function tell(text) {
    const box = document.createElement("p");
    box.className = "problem";
    box.textContent = text;
    fault.replaceChildren(...(text ? [box] : []));
  }

  // A change while they are made would begin another import beside the one that nobody can call back.
  function lock(on) {
    making = on;
    for (const each of [input, profile, ...report.querySelectorAll("select[data-column]")]) {
      if (!each || each === profile && profile.type === "hidden") continue;
      each.disabled = on || each.dataset.column === "";
    }
  }

  function take(chosen) {
    if (!chosen || making) return;
    tell("");
    report.replaceChildren();
    mapping = new Map();
    file = null;
    if (NOT_CSV.test(chosen.name)) {
      tell("This is a spreadsheet. Open it, save it as CSV in UTF-8, and choose that file.");
    } else if (chosen.size === 0) {
      tell("The file is empty. Its first row must name the columns.");
    } else if (chosen.size > Number(form.dataset.max)) {
      tell(`The file is larger than ${Math.floor(form.dataset.max / 1048576)} MB. Divide it, and import the parts one after the other.`);
    } else {
      file = chosen;
      send(form.dataset.check);
    }
  }

  function query(more) {
    const made = new URLSearchParams({profile: profile.value, ...more});
    for (const [column, field] of mapping) made.append("map", `${column}=${field}`);
    return made;
  }

  function send(path, more = {}, once = "") {
    sending?.abort();
    tell("");
    const request = new XMLHttpRequest();
    sending = request;
    progress.hidden = false;
    bar.removeAttribute("value");
    const sentAll = once ? form.dataset.making : "The file is checked…";
    said.textContent = sentAll;
    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable || event.loaded === event.total) return;
      bar.max = event.total;
      bar.value = event.loaded;
      said.textContent = `${Math.floor(100 * event.loaded / event.total)} % sent`;
    });
    request.upload.addEventListener("load", () => {
      bar.removeAttribute("value");
      said.textContent = sentAll;
    });
    request.addEventListener("loadend", () => {
      if (sending !== request) return;
      sending = null;
      progress.hidden = true;
    });
    request.addEventListener("error", () => {
      // A browser says no more of a file that was changed or deleted after it was chosen.
      tell("The file could not be sent. Was it changed since you chose it? Choose it again; else the server cannot be reached.");
      lock(false);
      enable();
    });
    request.addEventListener("load", () => {
      const next = request.getResponseHeader("HX-Redirect");
      if (next) {
        location.assign(next);
        return;
      }
      lock(false);
      show(request);
    });
    request.open("POST", `${path}?${query(more)}`);
    request.setRequestHeader("Content-Type", "text/csv");
    request.setRequestHeader("X-CSRF-Token", token());
    request.setRequestHeader("HX-Request", "true");
    if (once) request.setRequestHeader("Idempotency-Key", once);
    request.send(file);
  }

  function show(request) {
    const focused = report.contains(document.activeElement) ? document.activeElement.dataset.column : null;
    const target = request.status < 400 ? report : fault;
    htmx.swap(target, request.responseText, {swapStyle: "innerHTML"}, {eventInfo: {target, requestConfig: {verb: "get"}}});
    if (target === fault) enable();
    if (focused) report.querySelector(`select[data-column="${CSS.escape(focused)}"]`)?.focus();
  }

  function enable() {
    for (const each of report.querySelectorAll("button[type=submit][data-busy]")) {
      each.disabled = false;
      delete each.dataset.busy;
    }
  }

  // The field shows which file is here, however it came; and a file that was mended is another one under the same name,
  // which a browser tells only of a field that was empty.
  function hold(chosen) {
    const held = new DataTransfer();
    if (chosen) held.items.add(chosen);
    input.files = held.files;
  }

  input.addEventListener("click", () => { input.value = ""; });
  input.addEventListener("cancel", () => hold(file));
  input.addEventListener("change", () => take(input.files[0]));
  profile.addEventListener("change", () => {
    mapping = new Map();
    if (file) send(form.dataset.check);
  });
  report.addEventListener("change", (event) => {
    const select = event.target.closest("select[data-column]");
    if (!select) return;
    if (select.value === "?") mapping.delete(select.dataset.column);
    else mapping.set(select.dataset.column, select.value);
    send(form.dataset.check);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const checked = report.querySelector("[data-checked]");
    const button = report.querySelector("button[type=submit]");
    if (!file || !checked || !button || button.disabled) return;
    button.disabled = true;
    button.dataset.busy = "";
    lock(true);
    send(form.dataset.import, {rows: checked.dataset.rows}, checked.dataset.once);
  });
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) {
    drop.addEventListener(name, () => drop.classList.remove("over"));
  }
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    const [dropped] = event.dataTransfer.files;
    if (!dropped || making) return;
    hold(dropped);
    take(dropped);
  });
}

function begin(root) {
  for (const form of root.querySelectorAll("form[data-upload]")) {
    if (form.dataset.ready) continue;
    form.dataset.ready = "yes";
    upload(form);
  }
}

// A file that is dropped beside the place for it would otherwise be opened instead of the page.
for (const name of ["dragover", "drop"]) {
  window.addEventListener(name, (event) => {
    if (document.querySelector("form[data-upload]")) event.preventDefault();
  });
}
document.addEventListener("htmx:load", (event) => begin(event.detail.elt.parentElement ?? document));
begin(document);
