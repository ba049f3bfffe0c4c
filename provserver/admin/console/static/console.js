// What all pages have: problems shown where they belong, dialogs, copying, the theme, the menu.

function slot(element) {
  const form = element.closest("form");
  return form?.querySelector("[data-problem]") ?? document.getElementById("problem");
}

function tell(place, text) {
  const box = document.createElement("div");
  box.className = "problem";
  box.tabIndex = -1;
  box.textContent = text;
  place.replaceChildren(box);
  box.focus();
}

// What asks again by itself does not take the focus from who types, and stops when asking again is of no use.
const OVER = new Set([401, 403, 404]);

function polls(element) {
  return /\bevery \d/.test(element.getAttribute("hx-trigger") ?? "");
}

function away() {
  const place = document.getElementById("problem");
  if (place.childElementCount) return;
  const box = document.createElement("div");
  box.className = "problem";
  box.dataset.away = "";
  box.textContent = "The server cannot be reached. What is shown here goes on by itself when it is back.";
  place.replaceChildren(box);
}

function back() {
  document.querySelector("#problem > [data-away]")?.remove();
}

function mark(form, place) {
  for (const each of form.querySelectorAll("[aria-invalid]")) {
    each.removeAttribute("aria-invalid");
    each.removeAttribute("aria-errormessage");
  }
  for (const [number, item] of place.querySelectorAll("[data-field]").entries()) {
    const field = form.elements.namedItem(item.dataset.field);
    const first = field instanceof RadioNodeList ? field[0] : field;
    if (!(first instanceof HTMLElement)) continue;
    item.id ||= `why-${form.id}-${number}`;
    first.setAttribute("aria-invalid", "true");
    first.setAttribute("aria-errormessage", item.id);
  }
}

document.addEventListener("htmx:beforeRequest", (event) => {
  const {elt} = event.detail.requestConfig;
  if (!polls(elt)) slot(elt).replaceChildren();
});

document.addEventListener("htmx:beforeSwap", (event) => {
  const {xhr, requestConfig: {elt}} = event.detail; // detail.elt is where it is to go
  if (polls(elt)) {
    if (xhr.status < 400) back();
    if (xhr.status < 400 || !OVER.has(xhr.status)) return; // a fault that passes: it goes on polling
    elt.removeAttribute("hx-get");
    htmx.process(elt);
  }
  if (xhr.status < 400) return;
  event.detail.shouldSwap = true;
  event.detail.selectOverride = "unset"; // all of it, whatever is taken from an answer that is none
  event.detail.isError = false;
  event.detail.swapOverride = "innerHTML";
  event.detail.target = slot(elt);
});

document.addEventListener("htmx:afterSwap", (event) => {
  const place = event.detail.target;
  if (place.id === "problem" || "problem" in place.dataset) {
    const form = place.closest("form");
    if (form) mark(form, place);
    if (place.querySelector('[data-code="csrf_token_wrong"]')) renew(place);
    if (!polls(event.detail.requestConfig.elt)) place.querySelector(".problem")?.focus();
  } else if (place.id === "main" && event.detail.requestConfig.verb !== "get") {
    place.focus({preventScroll: true});
  }
});

// Who has signed in again in another tab has another token: what was typed here is sent with that.
async function renew(place) {
  const answer = await fetch("/account", {headers: {Accept: "text/html"}});
  const headers = new DOMParser().parseFromString(await answer.text(), "text/html").body.getAttribute("hx-headers");
  if (!headers || headers === document.body.getAttribute("hx-headers")) return;
  document.body.setAttribute("hx-headers", headers);
  tell(place, "You have signed in again since. Nothing was done yet: press the button once more.");
}

for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => {
    const {elt} = event.detail.requestConfig;
    if (polls(elt)) away();
    else tell(slot(elt), "The server cannot be reached. What you typed is still here: try again in a moment.");
  });
}

document.addEventListener("click", async (event) => {
  const from = event.target.closest("button");
  if (!from) return;
  if (from.dataset.dialog) {
    document.getElementById(from.dataset.dialog).showModal();
  } else if ("close" in from.dataset) {
    from.closest("dialog").close();
  } else if ("copy" in from.dataset) {
    await copied(from);
  } else if ("themeSwitch" in from.dataset) {
    switchTheme();
  } else if ("menu" in from.dataset) {
    const open = document.body.classList.toggle("menu-open");
    from.setAttribute("aria-expanded", String(open));
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !document.body.classList.contains("menu-open")) return;
  document.body.classList.remove("menu-open");
  const button = document.querySelector("[data-menu]");
  button.setAttribute("aria-expanded", "false");
  button.focus();
});

async function copied(button) {
  const text = button.dataset.copy;
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch { // no clipboard without HTTPS: have it selected, so that a key press copies it
    const shown = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(shown);
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => { button.textContent = said; }, 2000);
}

function switchTheme() {
  const order = ["auto", "light", "dark"];
  const root = document.documentElement;
  const next = order[(order.indexOf(root.dataset.theme) + 1) % order.length];
  root.dataset.theme = next;
  const said = `Colours: ${next === "auto" ? "automatic" : next}`;
  for (const each of document.querySelectorAll("[data-theme-switch]")) {
    if (each.hasAttribute("aria-label")) each.setAttribute("aria-label", `${said}. Change them`);
    else each.textContent = said;
  }
  document.getElementById("theme-said").textContent = said;
  document.cookie = `provserver_theme=${next}; Path=/; Max-Age=31536000; SameSite=Strict`;
}

// On a phone, tabs may be wider than the screen: the present one is to be seen.
document.querySelector(".tabs [aria-current]")?.scrollIntoView({block: "nearest", inline: "center"});

// A browser that brings a page back as it was would show a secret again, or what somebody saw who has signed out.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
