// Downloads that tell how far they are. Where that cannot be, the form is sent as it is: the browser downloads.

const IN_MEMORY = 512 * 1024 * 1024; // bytes; what is larger is left to the browser
const HEADER = [0x50, 0x4b, 0x03, 0x04]; // before each file of a zip

// How many things of a kind have come; parts may end anywhere.
function counter(unit) {
  let matched = 0;
  let count = 0;
  if (unit === "rows") {
    return (part) => {
      for (const byte of part) if (byte === 0x0a) count += 1;
      return count - 1;
    };
  }
  if (unit === "images") {
    return (part) => {
      for (const byte of part) {
        matched = byte === HEADER[matched] ? matched + 1 : Number(byte === HEADER[0]);
        if (matched === 4) {
          matched = 0;
          count += 1;
        }
      }
      return count - 1; // the first is the CSV
    };
  }
  return () => null;
}

async function download(form, said, bar, signal) {
  const total = Number(form.dataset.total);
  const unit = form.dataset.unit;
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
  const answer = await fetch(`${form.getAttribute("action")}?${query}`, {headers: {"HX-Request": "true"}, signal});
  if (!answer.ok) {
    const text = new DOMParser().parseFromString(await answer.text(), "text/html").body.textContent;
    throw new Refused(text.trim().replace(/\s+/g, " "));
  }
  const reader = answer.body.getReader();
  const count = counter(unit);
  const parts = [];
  let size = 0;
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    if (size > IN_MEMORY) {
      await reader.cancel();
      return false;
    }
    const come = count(value);
    if (come !== null) {
      bar.max = total;
      bar.value = Math.max(0, Math.min(come, total));
      said.textContent = `${Math.max(0, Math.min(come, total)).toLocaleString("en")} of ${total.toLocaleString("en")} ${unit}`;
    }
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(parts, {type: answer.headers.get("Content-Type") ?? ""}));
  link.download = form.dataset.download;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  said.textContent = `${total.toLocaleString("en")} ${unit}, ${Math.ceil(size / 1024).toLocaleString("en")} KB: downloaded`;
  return true;
}

class Refused extends Error {}

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form[data-download]");
  if (!form || !("body" in Response.prototype)) return;
  event.preventDefault();
  const button = form.querySelector("button");
  const progress = form.querySelector("[data-progress]");
  const stop = form.querySelector("[data-stop]");
  const stopping = new AbortController();
  const bar = progress.querySelector("progress");
  const said = progress.querySelector("[data-said]");
  button.disabled = true;
  stop.hidden = false;
  stop.onclick = () => stopping.abort();
  progress.hidden = false;
  bar.hidden = false;
  bar.removeAttribute("value");
  said.textContent = "It is made…";
  try {
    if (!await download(form, said, bar, stopping.signal)) {
      said.textContent = "It is large: the browser downloads it.";
      form.submit();
    }
  } catch (fault) {
    if (stopping.signal.aborted) said.textContent = "Cancelled: nothing was saved.";
    else said.textContent = fault instanceof Refused ? fault.message : "The download broke off. Try again.";
  }
  bar.hidden = true;
  button.disabled = false;
  if (stop === document.activeElement) button.focus();
  stop.hidden = true;
});

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-print]")) window.print();
});
