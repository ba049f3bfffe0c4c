// The list of organizations closes when something else is pressed or focused, or by Escape.

const switcher = document.querySelector("details[data-switcher]");

document.addEventListener("click", (event) => {
  if (switcher.open && !switcher.contains(event.target)) switcher.open = false;
});

switcher.addEventListener("focusout", (event) => {
  if (event.relatedTarget && !switcher.contains(event.relatedTarget)) switcher.open = false;
});

switcher.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  switcher.open = false;
  switcher.querySelector("summary").focus();
});

switcher.addEventListener("toggle", (event) => {
  if (event.target === switcher && switcher.open) switcher.querySelector("input[type=search]").focus();
});
