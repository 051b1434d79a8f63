"use strict";
// The desk: what waits, one image at a time or all alike at once. Every value is put in as text, never as markup.

const $ = (selector, root = document) => root.querySelector(selector);
const state = { kinds: [], kind: null, guids: [], after: "", at: -1, shown: null, leaving: false, asked: 0, busy: false };
const BLANKING = ["make-rule", "blank-one"];
let drawing;

async function ask(name, question = {}) {
  const answer = await fetch(`/api/${name}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question),
  });
  const found = answer.headers.get("Content-Type")?.startsWith("application/json") ? await answer.json() : { message: await answer.text() };
  if (!answer.ok) throw new Error(found.message || `the server answered ${answer.status}`);
  return found;
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function complain(text = "") {
  $("#problem").textContent = text;
  $("#problem").hidden = !text;
}

function say(text) { $("#status").textContent = text; }

const maker = (item) => [item.manufacturer, item.model].filter(Boolean).join(", ") || "unknown maker";
const size = (item) => (item.columns ? `${item.columns} × ${item.rows}` : "unknown");
const images = (count) => `${count} ${count === 1 ? "image" : "images"}`;
const current = () => state.guids[state.at];

// What waits

async function overview(keep = false) {
  const found = await ask("overview");
  $("#caller").textContent = found.caller;
  state.kinds = found.kinds;
  const total = found.kinds.reduce((sum, item) => sum + item.count, 0);
  say(total ? `${images(total)} wait, of ${found.kinds.length} kinds and reasons.` : "Nothing waits.");
  $("#kinds tbody").replaceChildren(...found.kinds.map(kindRow));
  const same = state.kind && found.kinds.find((item) => item.kind === state.kind.kind && item.reason === state.kind.reason);
  if (keep && same) { state.kind = same; mark(); }
  else if (found.kinds.length) await choose(found.kinds[0]);
  else { state.kind = null; state.guids = []; show(-1); $("#thumbnails ol").replaceChildren(); $("#more").hidden = true; }
}

function kindRow(item) {
  const row = element("tr", { tabIndex: 0 },
    element("td", { className: "count", textContent: item.count }), element("td", { textContent: `${item.modality} ${maker(item)}` }),
    element("td", { textContent: size(item) }), element("td", { textContent: item.reason }));
  row.dataset.kind = item.kind;
  row.dataset.reason = item.reason;
  row.addEventListener("click", guarded(() => choose(item)));
  row.addEventListener("keydown", (event) => { if (event.key === "Enter") guarded(() => choose(item))(); });
  return row;
}

function mark() {
  for (const row of document.querySelectorAll("#kinds tbody tr"))
    row.setAttribute("aria-selected", row.dataset.kind === state.kind?.kind && row.dataset.reason === state.kind?.reason);
  $("#alike").textContent = state.kind?.count ?? "";
}

async function choose(item) {
  Object.assign(state, { kind: item, guids: [], after: "", at: -1 });
  mark();
  drawing.set([]);
  $("#thumbnails ol").replaceChildren();
  await more();
  await show(0);
}

async function more() {
  const { kind, reason } = state.kind;
  const page = await ask("images", { kind, reason, after: state.after });
  if (kind !== state.kind?.kind || reason !== state.kind?.reason) return;
  state.after = page.after;
  const first = state.guids.length;
  state.guids.push(...page.guids);
  $("#thumbnails ol").append(...page.guids.map((guid, number) => thumbnail(guid, first + number)));
  $("#more").hidden = !page.after;
}

function thumbnail(guid, number) {
  const picture = element("img", { alt: `Image ${number + 1}`, loading: "lazy" });
  picture.src = `/picture/${guid}?side=128`;
  const button = element("button", { type: "button", className: "thumbnail" }, picture);
  button.dataset.guid = guid;
  button.addEventListener("click", guarded(() => show(state.guids.indexOf(guid))));
  return element("li", {}, button);
}

// One image

async function show(at) {
  const guid = state.guids[at];
  state.at = guid ? at : -1;
  $("#image").hidden = $("#facts").hidden = !guid;
  if (!guid) return;
  const asked = ++state.asked;
  for (const button of document.querySelectorAll(".thumbnail")) button.setAttribute("aria-current", button.dataset.guid === guid);
  $(`.thumbnail[data-guid="${guid}"]`)?.scrollIntoView({ block: "nearest" });
  $("#frame").value = 1;
  const found = await ask("show", { guid });
  if (asked !== state.asked) return;
  state.shown = found;
  const frames = Number(found.elements.find((item) => item.name === "NumberOfFrames")?.value) || 1;
  $("#frame").max = frames;
  $("#frames").textContent = `of ${frames}`;
  drawing.show(found.columns, found.rows);
  $("#found").replaceChildren();
  facts(found);
  draw();
  const history = await ask("decisions", { guid });
  if (asked !== state.asked) return;
  $("#history").replaceChildren(...history.map((item) =>
    element("li", { textContent: `${item.time}: ${item.action} by ${item.subject}${item.note ? `, ${item.note}` : ""}` })));
}

function facts(found) {
  const all = found.suspicions.includes(found.reason) ? found.suspicions : [found.reason, ...found.suspicions];
  $("#reasons").textContent = `${all.join(", ")}${found.releasable ? "" : ": cannot be released; drop it, or have it judged again"}`;
  $("#elements").replaceChildren(...found.elements.flatMap((item) => [
    element("dt", { textContent: `${item.name || ""} ${item.tag}` }),
    element("dd", { textContent: item.value, className: item.suspicious ? "suspicious" : "" }),
  ]));
  for (const button of document.querySelectorAll('[data-decide="release"], [data-decide-alike="release"]')) button.disabled = !found.releasable;
  for (const id of BLANKING) $(`#${id}`).disabled = !found.suspicions.length;
}

function draw() {
  const guid = current();
  if (!guid) return;
  const asked = new URLSearchParams({ frame: $("#frame").value, side: 1024 });
  if (state.leaving) {
    asked.set("released", "1");
    if (drawing.regions.length) asked.set("regions", drawing.regions.map((region) => region.join(",")).join(";"));
  }
  $("#drawing").classList.toggle("read-only", state.leaving);
  $("#drawing").style.visibility = state.leaving ? "hidden" : "visible";
  const picture = $("#frame-picture");
  picture.dataset.state = "loading";
  picture.alt = `Frame ${$("#frame").value} of image ${state.at + 1}`;
  $("#picture-problem").hidden = true;
  picture.src = `/picture/${guid}?${asked}`;
}

function showHead() {
  // The whole series is fetched and drawn, with its face and without; the next image, or the view button, ends it.
  const guid = current(), picture = $("#frame-picture");
  if (!guid) return;
  $("#drawing").style.visibility = "hidden";
  picture.dataset.state = "loading";
  picture.alt = `Head of the series of image ${state.at + 1}: above with its face, below as it would leave`;
  $("#picture-problem").hidden = true;
  picture.src = `/head/${guid}`;
}

function fit() {
  // As large as there is room for, so that a region can be drawn exactly.
  const picture = $("#frame-picture"), pane = $("#image");
  const room = Math.max(200, pane.clientHeight - $("#tools").offsetHeight - $("#decide").offsetHeight - 40);
  picture.style.width = `${Math.min(pane.clientWidth - 20, room * picture.naturalWidth / picture.naturalHeight)}px`;
  picture.dataset.state = "shown";
}

async function pictureFailed() {
  const picture = $("#frame-picture");
  picture.dataset.state = "failed";
  const answer = await fetch(picture.src);
  const found = answer.ok ? {} : await answer.json().catch(() => ({}));
  $("#picture-problem").textContent = found.message || "The picture cannot be shown.";
  $("#picture-problem").hidden = false;
}

async function findText() {
  const guid = current();
  say("Looking for text…");
  const found = await ask("text", { guid, frame: Number($("#frame").value) });
  if (guid !== current()) return;
  drawing.propose(found);
  say(found.length ? `${found.length} lines of text found; take over those that are to be blanked.` : "No text was found, which does not mean that there is none.");
  const items = found.map((item) => {
    const take = element("button", { type: "button", textContent: "Blank" });
    take.addEventListener("click", () => drawing.add(item.region));
    return element("li", {}, `${item.text} (${Math.round(item.score * 100)} %${item.in_header ? ", names the patient" : ""}) `, take);
  });
  if (found.length > 1) {
    const all = element("button", { type: "button", id: "take-all", textContent: "Blank all of them" });
    all.addEventListener("click", () => drawing.set([...drawing.regions, ...found.map((item) => item.region)]));
    items.unshift(element("li", {}, all));
  }
  $("#found").replaceChildren(...items);
}

function regionsChanged() {
  $("#regions").replaceChildren(...drawing.regions.map((region, number) => {
    const input = element("input", { value: region.join(","), ariaLabel: `Region ${number + 1}: left, top, width, height` });
    input.addEventListener("change", () => {
      const parts = input.value.split(",").map(Number);
      if (parts.length !== 4 || !parts.every(Number.isInteger)) return complain("A region is left,top,width,height in whole pixels.");
      complain();
      drawing.set(drawing.regions.map((old, at) => (at === number ? parts : old)));
    });
    const remove = element("button", { type: "button", textContent: "×", ariaLabel: `Remove region ${number + 1}` });
    remove.addEventListener("click", () => drawing.set(drawing.regions.filter((_, at) => at !== number)));
    return element("li", {}, input, " ", remove);
  }));
  if (state.leaving) draw();
}

// Decisions

const outcome = (found) => (found.failed ? `${images(found.failed)} could not be: ${found.why.join(" ")}` : "");
const note = () => $("#note").value.trim();

function sure(text) {
  const dialog = $("#sure");
  $("#sure-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }));
}

async function decide(action) {
  const guid = current();
  if (!guid) return;
  const found = await ask("decide", { action, guids: [guid], note: note() });
  complain(outcome(found));
  if (!found.done) return;
  $(`.thumbnail[data-guid="${guid}"]`)?.closest("li").remove();
  state.guids = state.guids.filter((other) => other !== guid);
  state.kind.count -= 1;
  if (!state.guids.length && state.after) await more();
  if (state.guids.length) { mark(); await show(Math.min(state.at, state.guids.length - 1)); await overview(true); }
  else await overview();
}

const VERBS = { release: "Release", drop: "Drop", retry: "Judge again" };

async function decideAlike(action) {
  const { kind, reason, count } = state.kind;
  if (!(await sure(`${VERBS[action]} all ${images(count)} of ${maker(state.kind)}, ${size(state.kind)}, that wait for ${reason}?`))) return;
  const found = await ask("decide-alike", { action, kind, reason, note: note() });
  await overview();
  complain(outcome(found));
  say(`${images(found.done)}: done.`);
}

async function makeRule(only) {
  const { regions } = drawing, guid = current();
  if (!guid) return;
  if (!regions.length) return complain("Draw a region on the image first.");
  const blank = `Blank ${regions.length} ${regions.length === 1 ? "region" : "regions"}`;
  const all = `${blank} on every image of ${maker(state.kind)}, ${size(state.kind)}, from now on, and let the ${images(state.kind.count)} that wait leave so?`;
  if (!(await sure(only ? `${blank} on this image only, and let it leave so?` : all))) return;
  const found = await ask("rule", { guid, regions, note: note(), only });
  drawing.set([]);
  state.leaving = false;
  await settled(found);
}

async function settled(found) {
  const { kind, reason } = state.kind;
  await overview();
  complain(outcome(found));
  say(`${found.rule.name} holds; ${images(found.done)} are judged again.`);
  // Those that are judged are not in the list any more; what comes back is.
  if (state.kind?.kind === kind && state.kind?.reason === reason) mark();
}

// Other pages

async function turnTo(page) {
  for (const name of ["waiting", "rules", "decisions"]) {
    $(`#${name}`).hidden = name !== page;
    $(`#to-${name}`).setAttribute("aria-pressed", name === page);
  }
  complain();
  if (page === "waiting") return overview(true);
  const found = await ask(page);
  say(page === "rules" ? `${found.length} pixel rules were made here.` : `The last ${found.length} decisions.`);
  $(`#${page} tbody`).replaceChildren(...found.map(page === "rules" ? ruleRow : decisionRow));
}

const cells = (...texts) => texts.map((text) => element("td", { textContent: text }));

const whatFor = (rule) => rule.guid ? `only ${rule.guid}` : maker(rule);

function ruleRow(rule) {
  const regions = rule.regions.map((region) => region.join(",")).join("  ");
  const row = element("tr", {}, ...cells(rule.name, whatFor(rule), size(rule), regions, rule.reasons.join(", "), rule.subject, rule.time, rule.note));
  const last = element("td", { textContent: rule.ended_by ? `ended by ${rule.ended_by}` : "" });
  if (!rule.ended_by) {
    const end = element("button", { type: "button", textContent: "End" });
    end.addEventListener("click", guarded(async () => {
      if (!(await sure(`End ${rule.name}? What it is for (${whatFor(rule)}) is held back again when it is judged or fetched the next time.`))) return;
      await ask("end-rule", { name: rule.name });
      await turnTo("rules");
    }));
    last.append(end);
  }
  row.append(last);
  return row;
}

function decisionRow(item) {
  return element("tr", {}, ...cells(item.time, item.action, item.guid, item.reason, item.subject, item.note));
}

// Buttons and keys

function guarded(work) {
  return async () => {
    if (state.busy) return;
    state.busy = true;
    document.body.ariaBusy = "true";
    try { await work(); } catch (error) { complain(error.message); } finally { state.busy = false; document.body.ariaBusy = "false"; }
  };
}

function leave() {
  state.leaving = !state.leaving;
  $("#as-it-leaves").setAttribute("aria-pressed", state.leaving);
  draw();
}

async function next(step) {
  if (state.at + step >= state.guids.length && state.after) await more();
  if (state.guids[state.at + step]) await show(state.at + step);
}

const KEYS = {
  ArrowRight: () => next(1), ArrowLeft: () => next(-1), r: () => decide("release"), d: () => decide("drop"), y: () => decide("retry"),
  v: leave, h: showHead, t: findText, b: () => makeRule(false), o: () => makeRule(true),
};

function listen() {
  const click = (selector, work) => $(selector).addEventListener("click", guarded(work));
  click("#previous", () => next(-1));
  click("#next", () => next(1));
  click("#as-it-leaves", leave);
  click("#show-head", showHead);
  click("#find-text", findText);
  click("#make-rule", () => makeRule(false));
  click("#blank-one", () => makeRule(true));
  click("#more", more);
  click("#add-region", () => drawing.add(drawing.clip([0, 0, drawing.columns, Math.ceil(drawing.rows / 12)])));
  click("#clear-regions", () => drawing.set([]));
  for (const page of ["waiting", "rules", "decisions"]) click(`#to-${page}`, () => turnTo(page));
  for (const button of document.querySelectorAll("[data-decide]")) button.addEventListener("click", guarded(() => decide(button.dataset.decide)));
  for (const button of document.querySelectorAll("[data-decide-alike]"))
    button.addEventListener("click", guarded(() => decideAlike(button.dataset.decideAlike)));
  $("#frame").addEventListener("change", draw);
  $("#frame-picture").addEventListener("load", fit);
  $("#frame-picture").addEventListener("error", () => pictureFailed().catch((error) => complain(error.message)));
  document.addEventListener("keydown", (event) => {
    const work = KEYS[event.key];
    const elsewhere = event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA)$/.test(event.target.tagName) || $("#sure").open;
    if (!work || elsewhere || $("#waiting").hidden) return;
    if (/^[rdybo]$/.test(event.key) && event.repeat) return;
    if (event.key === "r" && $('[data-decide="release"]').disabled) return;
    if ((event.key === "b" || event.key === "o") && $("#make-rule").disabled) return;
    event.preventDefault();
    guarded(work)();
  });
}

drawing = new Drawing($("#drawing"), regionsChanged);
listen();
guarded(overview)();
