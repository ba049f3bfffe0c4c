// A claim code, read by the camera, from a picture, or from the `#` of a link.
//
// The code opens a claim. So it is in no URL that is sent, and not in the history: a link's `#…` is taken out of the
// address at once. Somebody who has to sign in first leaves this page; sessionStorage keeps the code meanwhile, as it is
// of this tab alone, is sent nowhere, and ends with the tab. It is read once, within ten minutes, and then it waits for
// a press of the button: who has signed in may be another person, and a link may be a stranger's.

const KEPT = "claim-code";
const KEPT_FOR = 10 * 60 * 1000; // milliseconds
const CODE = /^(sqr_[A-Za-z0-9_-]{32}([+ ][0-9]{1,10})?|(LW:D0:|URN:LW:DP:|URN:DEV:LW:).{16,500})$/i;

// The longest side of a picture when it is looked at, and which part of it: small first, as that is quick and enough
// for most; a code that is small in the picture needs more pixels, one that fills it is found better with fewer.
const LOOKS = [[900, 1], [1600, 1], [500, 1], [1200, 0.5], [2400, 1], [300, 1], [2000, 0.6]];

function codeIn(text) {
  const given = text.trim();
  let after = given.slice(given.indexOf("#") + 1);
  try {
    after = decodeURIComponent(after);
  } catch {
    // a stranger's link may have any % in it
  }
  return [given, after].find((each) => CODE.test(each)) ?? null;
}

async function detector() {
  if (!("BarcodeDetector" in window)) return null;
  try {
    const formats = await BarcodeDetector.getSupportedFormats();
    return formats.includes("qr_code") ? new BarcodeDetector({formats: ["qr_code"]}) : null;
  } catch {
    return null; // some browsers have the class, and nothing behind it
  }
}

let decoding;

// What a QR code in a picture says, null without one. surface: a canvas.
async function read(surface, milliseconds) {
  decoding ??= import("./vendor/qr/decode.js");
  const {default: decodeQR} = await decoding;
  const {width, height} = surface;
  const image = surface.getContext("2d", {willReadFrequently: true}).getImageData(0, 0, width, height);
  try {
    return decodeQR({width, height, data: image.data}, {timeLimit: milliseconds});
  } catch {
    return null; // it throws when there is none
  }
}

// A part of something that can be drawn, in the middle of it, so that its longest side has so many pixels.
function drawn(source, width, height, side, part) {
  const wide = width * part;
  const high = height * part;
  const scale = Math.min(1, side / Math.max(wide, high));
  const surface = document.createElement("canvas");
  surface.width = Math.max(1, Math.round(wide * scale));
  surface.height = Math.max(1, Math.round(high * scale));
  surface.getContext("2d", {willReadFrequently: true})
    .drawImage(source, (width - wide) / 2, (height - high) / 2, wide, high, 0, 0, surface.width, surface.height);
  return surface;
}

async function readPicture(file) {
  const picture = await createImageBitmap(file);
  try {
    const {width, height} = picture;
    const quick = await detector();
    if (quick) {
      const found = await quick.detect(drawn(picture, width, height, 2000, 1)).catch(() => []);
      const fitting = found.find((each) => codeIn(each.rawValue)) ?? found[0];
      if (fitting) return fitting.rawValue;
    }
    for (const [side, part] of LOOKS) {
      const text = await read(drawn(picture, width, height, side, part), 400);
      if (text !== null) return text;
      await new Promise((done) => { setTimeout(done); }); // the page stays awake
    }
    return null;
  } finally {
    picture.close();
  }
}

function keep(code) {
  sessionStorage.setItem(KEPT, JSON.stringify({code, until: Date.now() + KEPT_FOR}));
}

function kept() {
  const text = sessionStorage.getItem(KEPT);
  sessionStorage.removeItem(KEPT);
  if (!text) return null;
  const {code, until} = JSON.parse(text);
  return until > Date.now() ? code : null;
}

function scan(root) {
  const signedIn = root.dataset.signedIn === "yes";
  const video = root.querySelector("[data-video]");
  if (!video) return;
  const idle = root.querySelector("[data-idle]");
  const said = root.querySelector("[data-said]");
  const button = root.querySelector("[data-camera]");
  const picture = root.querySelector("[data-picture]");
  const form = root.querySelector("form#claim");
  let stream = null;
  let asking = false;

  const say = (text) => { said.textContent = text || "\u00a0"; };

  function stop() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = null;
    video.srcObject = null;
    video.hidden = true;
    idle.hidden = false;
    button.textContent = "Scan with the camera";
  }

  function offer(code) {
    if (signedIn) {
      form.elements.namedItem("code").value = code;
      return;
    }
    keep(code);
    for (const each of root.querySelectorAll("[data-read]")) each.hidden = false;
    root.querySelector("[data-unread]").hidden = true;
    root.querySelector("[data-sign-in] a").focus();
  }

  // Whether a text is a code; then it is claimed, or kept for who signs in first.
  function take(text) {
    const code = codeIn(text);
    if (code === null) {
      say("This QR code is not a claim code. Look for another one on the device or its box.");
      return false;
    }
    stop();
    offer(code);
    if (signedIn) {
      say("The code is read. Claiming…");
      form.requestSubmit();
    } else {
      say("The code is read. Sign in to claim the device.");
    }
    return true;
  }

  async function watch() {
    const quick = await detector();
    const mine = stream;
    let last = 0;
    while (stream === mine && root.isConnected) {
      await new Promise((done) => { requestAnimationFrame(done); });
      if (stream !== mine || video.readyState < 2 || performance.now() - last < 120) continue;
      last = performance.now();
      let text = null;
      if (quick) {
        const found = await quick.detect(video).catch(() => []);
        text = (found.find((each) => codeIn(each.rawValue)) ?? found[0])?.rawValue ?? null;
      } else {
        text = await read(drawn(video, video.videoWidth, video.videoHeight, 720, 1), 60);
      }
      if (text !== null && stream === mine && take(text)) return;
    }
    if (stream === mine) stop();
  }

  button.addEventListener("click", async () => {
    if (stream) {
      stop();
      say("");
      return;
    }
    if (asking) return;
    asking = true;
    say("The browser asks whether this page may use the camera.");
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        video: {facingMode: "environment", width: {ideal: 1280}, height: {ideal: 960}}, audio: false,
      });
    } catch (fault) {
      say(fault.name === "NotAllowedError"
        ? "The camera was not allowed. Allow it in the browser's settings of this page, use a picture, or type the code."
        : "There is no camera that can be used. Use a picture, or type the code.");
      return;
    } finally {
      asking = false;
    }
    if (!root.isConnected || document.hidden) {
      stop();
      return;
    }
    video.srcObject = stream;
    video.hidden = false;
    idle.hidden = true;
    button.textContent = "Stop the camera";
    say("Hold the code so that it fills most of the picture.");
    await video.play().catch(() => {}); // stopped meanwhile
    await watch();
  });

  picture.addEventListener("change", async () => {
    const file = picture.files[0];
    if (!file) return;
    stop();
    say("Looking for the code…");
    root.setAttribute("aria-busy", "true");
    try {
      const text = await readPicture(file);
      if (text === null) {
        say("There is no QR code to be found in this picture. Take it closer, sharp, and without reflections; or type the code.");
      } else {
        take(text);
      }
    } catch {
      say("This file is no picture that the browser can read. Use JPEG or PNG, or type the code.");
    } finally {
      root.removeAttribute("aria-busy");
      picture.value = "";
    }
  });

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden || !stream) return;
    stop();
    say("The camera was stopped while you were away.");
  });
  window.addEventListener("pagehide", stop);

  if (!navigator.mediaDevices?.getUserMedia) {
    button.hidden = true;
    root.querySelector(`label[for="${picture.id}"]`).classList.add("primary");
    say("Use a picture of the code, or type it.");
    if (!window.isSecureContext) root.querySelector("[data-insecure]").hidden = false;
  }

  const linked = location.hash ? codeIn(location.hash) : null;
  if (linked) history.replaceState(null, "", location.pathname + location.search);
  const before = kept();
  const known = linked ?? before;
  if (known) {
    offer(known);
    say(signedIn ? "The code is here. Press “Claim the device” to claim it." : "The code is read. Sign in to claim the device.");
    if (signedIn) form.querySelector("button.primary").focus();
  }
}

// How long a claim still waits, on the clock of whoever looks.
function count(time) {
  const until = Date.parse(time.dateTime);
  const ticking = setInterval(tick, 1000);
  function tick() {
    const left = Math.ceil((until - Date.now()) / 1000);
    if (!time.isConnected || left < 0) clearInterval(ticking);
    else time.textContent = `${new Date(until).toLocaleTimeString()} (${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")} left)`;
  }
  tick();
}

function begin(root) {
  for (const each of root.querySelectorAll("[data-until]")) {
    if (each.dataset.ready) continue;
    each.dataset.ready = "yes";
    count(each);
  }
  for (const each of root.querySelectorAll("[data-scan]")) {
    if (each.dataset.ready) continue;
    each.dataset.ready = "yes";
    scan(each);
  }
}

// A link to this page, followed on this page.
window.addEventListener("hashchange", () => {
  const code = codeIn(location.hash);
  if (code === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  keep(code);
  location.reload();
});
document.addEventListener("htmx:load", (event) => begin(event.detail.elt.parentElement ?? document));
begin(document);
