// Live updates, clocks, keys and the notice of a page that was read. Every page works without this module.
const main = document.getElementById("main");
const status = document.getElementById("status");
const policy = window.trustedTypes?.createPolicy("frag", { createHTML: (html) => html }); // only what this server renders
const parse = (html) => new DOMParser().parseFromString(policy ? policy.createHTML(html) : html, "text/html");

function say(text) {
  if (status.textContent === text) return;
  status.textContent = text;
  status.hidden = !text;
}

// A part is left alone while a person is at it: their pointer or focus is in a panel with buttons, or they have typed.
const typed = (root) => [...root.querySelectorAll("textarea, input, select")].some((f) =>
  f.tagName === "SELECT" ? ![...f.options].every((o) => o.selected === o.defaultSelected) && f.selectedIndex > 0 : f.type !== "hidden" && f.value !== f.defaultValue);
const busy = () => [...main.querySelectorAll("[data-hold]")].some((p) => p.matches(":hover, :focus-within") || typed(p));
const opened = (part) => [...part.querySelectorAll("details")].map((d) => d.open);

function swap(next) {
  const fresh = new Map([...next.querySelectorAll("[data-part]")].map((p) => [p.id, p]));
  const old = [...main.querySelectorAll("[data-part]")];
  if (fresh.size !== old.length || old.some((p) => !fresh.has(p.id))) {
    if (main.contains(document.activeElement)) return false;
    main.replaceChildren(...next.childNodes);
    return true;
  }
  let whole = true;
  for (const part of old) {
    const to = fresh.get(part.id);
    if (part.isEqualNode(to)) continue;
    if (part.contains(document.activeElement)) { whole = false; continue; }
    const states = opened(part);
    to.querySelectorAll("details").forEach((d, i) => { d.open = states[i] ?? d.open; });
    part.replaceWith(to);
    if (to.matches("[data-hold]")) rest(to);
  }
  return whole;
}

// A panel that just changed takes no click for a moment: the click was meant for what was there before.
function rest(panel) {
  const buttons = [...panel.querySelectorAll("button")];
  buttons.forEach((b) => { b.disabled = true; });
  setTimeout(() => buttons.forEach((b) => { b.disabled = false; }), 800);
}

async function refresh(asked) {
  if (!asked && busy()) return say("Updated: press r to show it");
  try {
    const res = await fetch(main.dataset.here, { headers: { Accept: "text/html" } });
    if (res.redirected) return location.reload();
    if (!res.ok) return say("This page could not be updated");
    const doc = parse(await res.text());
    if (!asked && busy()) return say("Updated: press r to show it");
    const next = doc.getElementById("main");
    document.querySelector("nav")?.replaceWith(doc.querySelector("nav"));
    say(swap(next) ? "" : "Updated: press r to show it");
    for (const key of ["live", "notice"]) {
      if (next.dataset[key]) main.dataset[key] = next.dataset[key]; else delete main.dataset[key];
    }
  } catch {
    say("This page could not be updated");
  }
}

// One stream for each visible page: a browser allows few connections to one host.
let stream, heard = Date.now(), soon;
function connect() {
  if (stream || document.hidden || !main.dataset.live) return;
  heard = Date.now();
  stream = new EventSource("/live");
  stream.addEventListener("beat", () => { heard = Date.now(); if (status.dataset.stale) { delete status.dataset.stale; say(""); refresh(); } });
  stream.addEventListener("change", (e) => {
    heard = Date.now();
    if (!main.dataset.live.split(" ").includes(JSON.parse(e.data).topic)) return;
    clearTimeout(soon);
    soon = setTimeout(refresh, 400);
  });
}
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { stream?.close(); stream = undefined; } else if (main.dataset.live) { connect(); refresh(); }
  watch();
});
connect();

function span(ms) {
  const s = Math.floor(ms / 1000), two = (n, unit, rest, small) => `${Math.floor(n)} ${unit}${Math.floor(rest) ? ` ${Math.floor(rest)} ${small}` : ""}`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return two(s / 60, "min", s % 60, "s");
  if (s < 172800) return two(s / 3600, "h", (s / 60) % 60, "min");
  return two(s / 86400, "d", (s / 3600) % 24, "h");
}
const skew = Date.now() - Date.parse(main.dataset.now); // clocks run by the server's
setInterval(() => {
  const now = Date.now() - skew;
  for (const e of document.querySelectorAll("[data-since]")) e.textContent = span(now - Date.parse(e.dataset.since));
  for (const e of document.querySelectorAll("[data-at]")) {
    const d = Date.parse(e.dataset.at) - now, text = d > 0 ? `in ${span(d)}` : `${span(-d)} ago`;
    e.textContent = e.textContent.startsWith("(") ? `(${text})` : text;
  }
  if (stream && Date.now() - heard > 30000) { status.dataset.stale = "1"; say("No news for 30 s: this page may be stale"); }
}, 1000);

// A page that was in view for three seconds was seen.
let seen;
function watch() {
  clearTimeout(seen);
  if (document.hidden || !main.dataset.notice) return;
  seen = setTimeout(async () => {
    const to = main.dataset.notice;
    delete main.dataset.notice;
    if (to && (await fetch(to, { method: "POST" })).ok) refresh();
  }, 3000);
}
watch();

// Security keys sign the server's challenge, at the place that the console is configured to have.
const ask = async (path, body) => {
  const res = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const said = await res.json();
  if (!res.ok) throw new Error(said.error);
  return said;
};
async function prove(about) {
  const { publicKey } = await ask("/keys/prove/begin", { for: about });
  const credential = await navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(publicKey) });
  await ask("/keys/prove/finish", { for: about, credential });
}
async function register(name) {
  const { publicKey } = await ask("/keys/register/begin", { name });
  const credential = await navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(publicKey) });
  await ask("/keys/register/finish", { credential });
}
async function touch(ceremony, form) {
  say("Touch your security key");
  try {
    await ceremony();
    say("");
    const typed = form?.querySelector("textarea")?.value; // of a reason that was begun
    document.activeElement?.blur();
    await refresh(true);
    const reason = main.querySelector("#decide textarea");
    if (typed && reason && !reason.value) reason.value = typed;
  } catch (e) {
    say(e.name === "NotAllowedError" ? "The security key was not used" : e.message);
  }
}
const able = window.PublicKeyCredential?.parseRequestOptionsFromJSON ? "keys" : "keyless";
document.documentElement.classList.add(location.origin === main.dataset.site ? able : "elsewhere");
document.addEventListener("click", (e) => {
  const button = e.target.closest("[data-prove]");
  if (button) touch(() => prove(button.dataset.prove), button.closest("section")?.querySelector("form"));
});
document.addEventListener("submit", (e) => {
  if (!e.target.matches("[data-register]")) return;
  e.preventDefault();
  const name = e.target.elements.name.value;
  touch(() => register(name));
});

// Single keys go places; none decides. They can be switched off, for people whose tools type for them.
const places = { o: "/", a: "/approvals", i: "/incidents", d: "/agents" };
const help = document.getElementById("help"), keys = document.getElementById("keys");
keys.checked = localStorage.getItem("keys") !== "off";
keys.addEventListener("change", () => localStorage.setItem("keys", keys.checked ? "on" : "off"));
let going = 0;
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest("input, textarea, select, [contenteditable]")) return;
  if (e.key === "?") return help.open ? help.close() : help.showModal();
  if (!keys.checked || help.open) return;
  if (Date.now() - going < 1500 && places[e.key]) { location.href = places[e.key]; return; }
  going = e.key === "g" ? Date.now() : 0;
  if (e.key === "r") refresh(true);
});
