// The playground: asks /v1/vqa about one image, shows the answer, and the card of the chosen model.
"use strict";

const at = (id) => document.getElementById(id);
const [form, fileInput, preview, fileNote, question, options, askButton] =
  ["form", "file", "preview", "file-note", "question", "options", "ask"].map(at);
const [modelChoice, key, drop, errorBox, result, card] = ["model", "key", "drop", "error", "result", "card"].map(at);
const SMALL = 160; // pixels; below this an image is shown as squares

const QUALITIES = [0.95, 0.85, 0.7]; // of a JPEG, one after the other, before it is made smaller
const TEXT_ROOM = 4096; // bytes of a request beside its image and texts

let image = null; // the File that was chosen
let limits = null; // what the server takes, from /v1/models
let asking = null; // the AbortController of the request on its way
let countdown = 0; // timer of the wait that a full server asked for
let cardWanted = 0; // number of the newest request for a card, so that late replies are dropped

/** An element with text, attributes and children; text is never read as HTML. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}\u00a0%`;
const known = (value) => value !== null && value !== undefined && value !== "";

// ---- talking to the server

class Refused extends Error {
  constructor(message, status, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function call(path, request = {}) {
  // Without a key of its own the page uses the password that it was opened with, if any
  const access = key.value
    ? { headers: { Authorization: `Bearer ${key.value}` }, credentials: "omit" }
    : { credentials: "same-origin" };
  let reply;
  try {
    reply = await fetch(path, { ...request, ...access, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server cannot be reached. Is it still running?", 0, 0);
  }
  let content = null;
  try {
    content = await reply.json();
  } catch (error) {
    if (error.name === "AbortError") throw error; // else a proxy's page of text, or nothing
  }
  if (reply.ok && content !== null) return content;
  throw new Refused(inWords(reply, content), reply.status, Number(reply.headers.get("Retry-After")) || 0);
}

/** What a refusal means and what to do, and the server's own words where they say more. */
function inWords(reply, content) {
  const said = content && content.error && typeof content.error.message === "string" ? content.error.message : "";
  const id = reply.headers.get("X-Request-Id");
  const meanings = {
    401: key.value ? "The server does not take this API key." : "The server wants an API key; enter it at the top.",
    429: "The server is full.",
  };
  if (meanings[reply.status]) return meanings[reply.status];
  const more = {
    403: "You may not do that here.",
    404: "The server does not have that.",
    408: "The image took too long to arrive.",
    413: "The image is too large for this server; use a smaller one.",
    415: "The server does not read this kind of file.",
    422: "The server cannot use this.",
    503: "The server is not ready.",
    504: "The server took too long to answer.",
  };
  const meaning = more[reply.status] || (reply.status >= 500 ? "The server failed." : "The server refused.");
  const words = said ? `It says (${reply.status}): ${said}.` : `(${reply.status})`;
  return [meaning, words, reply.status >= 500 && id && !said.includes(id) ? `Request ${id}.` : ""].filter(Boolean).join(" ");
}

function showError(text) {
  errorBox.textContent = text;
  errorBox.hidden = !text;
}

function report(error) {
  if (error.status === 429 && error.retryAfter > 0) return waitAndSay(error);
  showError(error.message);
  if (error.status === 401) key.focus();
}

/** Count the seconds down that the server asked for; the button stays usable, asking earlier is no crime. */
function waitAndSay(error) {
  let left = Math.ceil(error.retryAfter);
  showError(`${error.message} Try again in ${left} s.`);
  clearInterval(countdown);
  errorBox.setAttribute("aria-live", "off"); // a screen reader need not hear every second
  countdown = setInterval(() => {
    left -= 1;
    if (left > 0) return void (errorBox.textContent = `${error.message} Try again in ${left} s.`);
    stopCountdown();
    errorBox.textContent = "The server should have room now. Ask again.";
  }, 1000);
}

function stopCountdown() {
  clearInterval(countdown);
  errorBox.removeAttribute("aria-live");
}

// ---- the image

function take(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) return showError(`${file.name || "This"} is not an image.`);
  showError("");
  image = file;
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = `The chosen image, ${file.name || "pasted"}`;
  preview.hidden = false;
  fileNote.textContent = described(file);
  drop.querySelector("b").textContent = "Choose another image";
  question.focus();
}

const described = (file) => `${file.name || "pasted image"}, ${size(file.size)}`;
const size = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

preview.addEventListener("load", () => {
  preview.classList.toggle("small", Math.max(preview.naturalWidth, preview.naturalHeight) < SMALL);
});
preview.addEventListener("error", () => {
  preview.hidden = true; // the server may still read a format that this browser does not
});
fileInput.addEventListener("change", () => take(fileInput.files[0]));
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (!file) return; // text into a field
  event.preventDefault();
  take(file);
});
let inside = 0; // drag events come from every element on the way
document.addEventListener("dragenter", () => drop.classList.toggle("over", ++inside > 0));
document.addEventListener("dragleave", () => drop.classList.toggle("over", --inside > 0));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  drop.classList.remove("over");
  take(event.dataTransfer.files[0]);
});

// ---- an image over the server's limits is scaled here

/** The image as it can be sent with so many bytes of text: as it is, or scaled to the server's limits. */
async function withinLimits(file, textBytes) {
  if (!limits) return file; // the server will say
  const most = Math.min(limits.image_bytes, limits.body_bytes - TEXT_ROOM - textBytes);
  let picture;
  try {
    picture = await createImageBitmap(file, { imageOrientation: "from-image" }); // upright, whatever its EXIF says
  } catch {
    return file; // a format that this browser does not read and the server may
  }
  try {
    const { width, height } = picture;
    const [long, short] = [Math.max(width, height), Math.min(width, height)];
    if (long > limits.image_aspect * short) {
      throw new Refused(`The image is too narrow for this server: ${width} × ${height}, at most ${limits.image_aspect} : 1. Cut it.`, 0, 0);
    }
    const share = Math.min(1, Math.sqrt(limits.pixels / (width * height)), limits.image_side / long);
    if (share === 1 && file.size <= most) return file;
    const scaled = await encoded(picture, share, file.type === "image/png", most);
    if (image === file) fileNote.textContent = `${described(file)}, sent as ${scaled.width} × ${scaled.height}, ${size(scaled.blob.size)}`;
    return scaled.blob;
  } finally {
    picture.close();
  }
}

/** The picture on white, at most so large: as PNG where it was one and fits, else as JPEG, smaller where that must be. */
async function encoded(picture, share, lossless, most) {
  for (;; share *= 0.8) {
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.floor(picture.width * share));
    canvas.height = Math.max(1, Math.floor(picture.height * share));
    const context = canvas.getContext("2d");
    if (!context) throw new Refused("This browser cannot scale so large an image; use a smaller one.", 0, 0);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    for (const [type, quality] of [...(lossless ? [["image/png"]] : []), ...QUALITIES.map((one) => ["image/jpeg", one])]) {
      const blob = await new Promise((done) => canvas.toBlob(done, type, quality));
      if (blob === null) throw new Refused("This browser cannot scale so large an image; use a smaller one.", 0, 0);
      if (blob.size <= most || Math.max(canvas.width, canvas.height) === 1) return { blob, width: canvas.width, height: canvas.height };
    }
  }
}

// ---- asking

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (asking) asking.abort();
  else ask();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && asking) asking.abort();
});

async function ask() {
  stopCountdown();
  const asked = question.value.trim();
  const offered = options.value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!image) return needs("Choose an image first.", fileInput);
  if (!asked) return needs("Write a question first.", question);
  const texts = { question: asked, options: offered.length ? JSON.stringify(offered) : "", model: modelChoice.value };
  const chosen = image;
  showError("");
  busy(new AbortController());
  try {
    const { signal } = asking;
    const file = await withinLimits(chosen, new Blob(Object.values(texts)).size);
    signal.throwIfAborted();
    const body = new FormData();
    body.append("file", file, chosen.name || "pasted");
    for (const [name, text] of Object.entries(texts)) if (text) body.append(name, text);
    const began = performance.now();
    const reply = await call("v1/vqa", { method: "POST", body, signal: asking.signal });
    showAnswer(asked, reply, performance.now() - began);
  } catch (error) {
    result.replaceChildren();
    if (error.name !== "AbortError") report(error);
  } finally {
    busy(null);
  }
}

function needs(message, field) {
  showError(message);
  field.focus();
}

function busy(controller) {
  asking = controller;
  askButton.textContent = controller ? "Stop" : "Ask";
  askButton.classList.toggle("stop", Boolean(controller));
  result.setAttribute("aria-busy", String(Boolean(controller)));
  if (controller) result.replaceChildren(make("p", { class: "waiting" }, "Asking …"));
}

// ---- the answer

/** A bar of a share between 0 and 1, with its number in words for screen readers. */
function level(share, kind = "") {
  const fill = make("i");
  fill.style.width = `${Math.min(100, Math.max(0, 100 * share))}%`; // a script may set it, an attribute may not
  return make("span", { class: `level ${kind}`, role: "img", "aria-label": percent(share, 1) }, fill);
}

function levels(entries, kind) {
  const list = make("dl", { class: "levels" });
  for (const [name, share] of entries) {
    list.append(make("dt", {}, name), level(share, kind), make("dd", {}, percent(share, 1)));
  }
  return list;
}

function showAnswer(asked, reply, roundTrip) {
  const box = make("div", { class: "answer" }, make("p", { class: "asked" }, asked), make("p", { class: "said" }, reply.answer || "(no answer)"));
  if (known(reply.confidence)) {
    box.append(levels([["confidence", reply.confidence]], "main"));
    if (!reply.calibrated) box.append(make("p", { class: "note" }, "Not calibrated: this model has no evaluation to fit it to."));
  }
  const others = (reply.alternatives || []).filter((one) => one.answer !== reply.answer);
  if (others.length) box.append(make("h3", {}, "Alternatives"), levels(others.map((one) => [one.answer, one.confidence])));
  const facts = [
    known(reply.latency_ms) ? `${Math.round(reply.latency_ms)} ms on the server, ${Math.round(roundTrip)} ms in all` : `${Math.round(roundTrip)} ms`,
    known(reply.model) ? `model ${reply.model}` : "",
    known(reply.run) ? `run ${reply.run}` : "",
    known(reply.id) ? `id ${reply.id}` : "",
  ];
  box.append(make("ul", { class: "facts" }, ...facts.filter(Boolean).map((fact) => make("li", {}, fact))));
  result.replaceChildren(box);
}

// ---- models and their cards

async function loadModels() {
  let models;
  try {
    const served = await call("v1/models");
    models = served.data || [];
    limits = served.limits || null;
  } catch (error) {
    return report(error);
  }
  showError("");
  const before = modelChoice.value;
  modelChoice.replaceChildren(...models.map((model) => make("option", { value: model.id }, model.state === "ready" ? model.id : `${model.id} (${model.state === "loading" ? "loading" : "not loaded"})`)));
  if (models.some((model) => model.id === before)) modelChoice.value = before;
  modelChoice.disabled = models.length === 0;
  await loadCard();
}

async function loadCard() {
  const number = ++cardWanted;
  try {
    const found = await call(`v1/card?model=${encodeURIComponent(modelChoice.value)}`);
    if (number === cardWanted) showCard(found);
  } catch (error) {
    if (number === cardWanted) card.replaceChildren(make("h2", {}, "Model card"), make("p", { class: "note" }, error.message));
  }
}

modelChoice.addEventListener("change", loadCard);
key.addEventListener("change", loadModels);

function showCard(found) {
  const base = found.base_model || {};
  const labels = found.labels || {};
  const calibration = found.calibration || {};
  const facts = [
    ["run", found.run],
    [found.kind === "run" ? "adapted from" : "model", [base.name, base.revision && `revision ${base.revision}`].filter(Boolean).join(", ")],
    ["labels", known(labels.images) ? `${labels.images} images${known(labels.questions) ? `, ${labels.questions} questions` : ""}` : ""],
    ["labeled data", (found.data || {}).labeled],
    ["calibration", known(calibration.temperature) ? calibrationText(calibration) : ""],
    ["licence", found.licence],
    ["code version", found.code_version],
    ["date", found.date],
  ];
  const list = make("dl");
  for (const [name, value] of facts) if (known(value)) list.append(make("dt", {}, name), make("dd", {}, String(value)));
  card.replaceChildren(make("h2", {}, `Model card: ${found.name || found.run || "model"}`), list);
  if (found.evaluation) card.append(evaluationTable(found.evaluation));
  if (found.note) card.append(make("p", { class: "note" }, found.note));
}

function calibrationText(calibration) {
  const error = known(calibration.ece) ? calibration.ece : calibration.ece_uncalibrated;
  return `confidence is off by ${(100 * error).toFixed(1)} points on average (ECE over ${calibration.n} answers)`;
}

function evaluationTable(evaluation) {
  const types = [...new Set(evaluation.rows.flatMap((row) => Object.keys(row.by_type || {})))].sort();
  const head = ["", "accuracy", "95 % interval", "questions", ...types].map((name) => make("th", { scope: "col" }, name));
  const lines = evaluation.rows.map((row) => {
    const [low, high] = row.ci95;
    const cells = [percent(row.accuracy, 1), `${(100 * low).toFixed(1)} – ${(100 * high).toFixed(1)}`, String(row.n)];
    const byType = types.map((type) => (type in (row.by_type || {}) ? (100 * row.by_type[type]).toFixed(1) : "–"));
    const line = make("tr", {}, make("th", { scope: "row" }, row.title || row.name), ...[...cells, ...byType].map((text) => make("td", {}, text)));
    if (row.ours) line.className = "ours";
    return line;
  });
  const by = types.length ? "; by question type in percent" : "";
  return make("div", {},
    make("p", { class: "note", id: "table-title" }, `Evaluation on ${evaluation.dataset}${by}`),
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "table-title" },
      make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...lines))),
    ...(evaluation.warnings || []).map((text) => make("p", { class: "note" }, text)));
}

loadModels();
