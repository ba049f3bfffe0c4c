// The token of a one-time link is behind the #: it goes into the form, and out of the address bar.

const token = location.hash.slice(1);
if (token) history.replaceState(null, "", location.pathname + location.search);

for (const input of document.querySelectorAll("input[data-link]")) {
  if (token) input.value = token;
  const found = input.value !== "";
  for (const each of document.querySelectorAll("[data-with-link]")) each.hidden = !found;
  for (const each of document.querySelectorAll("[data-without-link]")) each.hidden = found;
}

// Another link that is pasted into the same tab changes only what is behind the #.
addEventListener("hashchange", () => location.reload());
