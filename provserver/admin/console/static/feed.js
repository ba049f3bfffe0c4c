// What happens, as it happens: server-sent events as lines of a list. All of them are texts: nothing is read as HTML.

const SPELT = {COAP: "CoAP", BLYNK: "Blynk"};

const MOST = 60; // lines
const AT_ONCE = 12; // lines of a second: of more, the newest are shown
const PATIENCE = [2, 5, 10, 30]; // seconds before the next try, when the browser gives up

function words(text) {
  return String(text ?? "").replaceAll("_", " ").replaceAll(".", " ").toLowerCase();
}

// What whoever looks may not know the name of has one for its kind.
function who(event) {
  const [kind] = String(event.actor).split(":");
  const noun = {user: "A user", key: "An API key", device: "A device", operator: "The operator"}[kind] ?? "The server";
  return event.actorName ?? noun;
}

function part(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function link(to, text) {
  const made = part("a", text);
  made.href = to;
  return made;
}

// What a line says: its badge, and its texts and links.
const LINES = {
  attempt(event, base) {
    const kinds = {success: ["provisioned", "good"], pending: ["waits", "warn"], limited: ["later", "warn"], unavailable: ["later", "warn"]};
    const badge = kinds[event.outcome] ?? ["refused", "bad"];
    const name = event.deviceName || "a device without a name";
    const said = [link(`${base}/attempts/${encodeURIComponent(event.id)}`, name)];
    if (event.profile) said.push(` of ${event.profile}`);
    said.push(` over ${SPELT[event.transport] ?? event.transport}`);
    if (event.reason) said.push(`: ${words(event.reason)}`);
    return [badge, said];
  },
  presence(event, base) {
    const device = link(`${base}/devices/${encodeURIComponent(event.deviceId)}`, event.deviceName);
    return [event.online ? ["online", "good"] : ["offline", "plain"], [device]];
  },
  audit(event) {
    const named = event.detail && (event.detail.name ?? event.detail.email);
    return [["audit", "info"], [`${who(event)}: ${words(event.action)}${typeof named === "string" ? ` ${named}` : ""}`]];
  },
};

function line(kind, event, base) {
  const [[badge, look], said] = LINES[kind](event, base);
  const made = document.createElement("li");
  const time = part("time", String(event.at).slice(11, 19));
  time.dateTime = event.at;
  time.title = `${String(event.at).slice(0, 19).replace("T", " ")} UTC`;
  const text = document.createElement("span");
  text.append(...said);
  made.append(time, " ", part("span", badge, `badge ${look}`), " ", text);
  return made;
}

class Feed {
  constructor(section) {
    this.section = section;
    this.box = section.querySelector(".feed");
    this.list = this.box.querySelector("ol");
    this.state = section.querySelector(".feed-state");
    this.button = section.querySelector("[data-feed-pause]");
    this.then = section.querySelector("[data-feed-then]");
    this.last = "";
    this.fails = 0;
    this.paused = false;
    this.held = [];
    this.timer = setInterval(() => this.flush(), 1000);
    this.button.addEventListener("click", () => this.pause());
    this.open();
  }

  open() {
    const address = this.last ? `${this.section.dataset.feed}?after=${encodeURIComponent(this.last)}` : this.section.dataset.feed;
    this.source = new EventSource(address);
    this.source.addEventListener("open", () => { this.fails = 0; this.say("Listening …"); });
    this.source.addEventListener("error", () => this.lost());
    for (const kind of Object.keys(LINES)) {
      this.source.addEventListener(kind, (message) => this.hear(kind, message));
    }
  }

  hear(kind, message) {
    if (message.lastEventId) this.last = message.lastEventId;
    const event = JSON.parse(message.data);
    this.held.push([kind, event]);
    if (this.held.length > MOST) this.held.splice(0, this.held.length - MOST);
    if (kind === "attempt" && event.outcome === "success" && this.then) this.then.hidden = false;
    if (this.paused) this.button.textContent = `Go on (${this.held.length} new)`;
  }

  // Once a second, so that a fleet which comes at once does not drown who listens.
  flush() {
    if (!this.section.isConnected) return this.close();
    if (this.paused || !this.held.length) return;
    const news = this.held.slice(-AT_ONCE).reverse();
    const more = this.held.length - news.length;
    this.held = [];
    const lines = news.map(([kind, event]) => line(kind, event, this.section.dataset.base));
    if (more) lines.push(part("li", `and ${more} more`, "soft"));
    const atTop = this.box.scrollTop < 8;
    const height = this.box.scrollHeight;
    this.list.prepend(...lines);
    if (!atTop) this.box.scrollTop += this.box.scrollHeight - height; // who reads further down stays there
    while (this.list.children.length > MOST) this.list.lastElementChild.remove();
  }

  pause() {
    this.paused = !this.paused;
    this.button.setAttribute("aria-pressed", String(this.paused));
    this.button.textContent = this.paused ? "Go on" : "Pause";
    this.say(this.paused ? "Paused." : "Listening …");
    this.flush();
  }

  // The browser itself tries again after a break; after a refusal it does not.
  lost() {
    if (this.source.readyState !== EventSource.CLOSED) {
      this.say("The connection broke. Trying again …");
      return;
    }
    if (this.fails >= PATIENCE.length) {
      this.say("Nothing is heard any more. Load the page again; it may ask you to sign in.");
      return;
    }
    this.say("Nothing is heard just now. Trying again …");
    this.retry = setTimeout(() => this.open(), PATIENCE[this.fails] * 1000);
    this.fails += 1;
  }

  say(text) {
    if (this.paused && text === "Listening …") return;
    if (this.state.textContent !== text) this.state.textContent = text;
  }

  close() {
    clearInterval(this.timer);
    clearTimeout(this.retry);
    this.source.close();
    feeds.delete(this.section);
  }
}

const feeds = new Map();

function begin() {
  for (const section of document.querySelectorAll("[data-feed]")) {
    if (!feeds.has(section)) feeds.set(section, new Feed(section));
  }
}

begin();
document.addEventListener("htmx:load", begin);
addEventListener("pagehide", () => { for (const feed of [...feeds.values()]) feed.close(); });
addEventListener("pageshow", (event) => { if (event.persisted) begin(); });
