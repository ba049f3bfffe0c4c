// Passwords can be looked at while they are typed.

function show(button, shown) {
  const input = document.getElementById(button.getAttribute("aria-controls"));
  input.type = shown ? "text" : "password";
  button.textContent = shown ? "Hide" : "Show";
  button.setAttribute("aria-label", shown ? "Hide the password" : "Show the password");
  return input;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-reveal]");
  if (button) show(button, button.textContent === "Show").focus();
});

// What is sent is sent as a password, so that browsers offer to keep it.
document.addEventListener("htmx:configRequest", (event) => {
  for (const button of event.detail.elt.querySelectorAll?.("button[data-reveal]") ?? []) show(button, false);
});
