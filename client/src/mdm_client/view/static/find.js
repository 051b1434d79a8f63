"use strict";
// The find page: facets and studies from this server, nothing from anywhere else. Every value is put in as text, never as markup.

const $ = (selector, root = document) => root.querySelector(selector);
const state = { filters: {}, offset: 0, total: 0, facets: [], viewer: false, asked: 0 };

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

function complain(text) {
  $("#problem").textContent = text;
  $("#problem").hidden = !text;
}

function failuresOf(found) {
  return Object.entries(found.failures || {}).map(([site, why]) => `${site} does not answer: ${why}`).join("\n");
}

function valuesFacet(facet) {
  const box = element("div", { className: "values" });
  const set = element("fieldset", {}, element("legend", { textContent: facet.label }), box);
  set.dataset.facet = facet.name;
  return set;
}

function datesFacet(facet) {
  const grid = element("div", { className: "dates" });
  for (const end of ["from", "to"]) {
    const input = element("input", { type: "date", id: `${facet.name}-${end}` });
    input.addEventListener("change", () => {
      state.filters[facet.name] = { ...state.filters[facet.name], [end]: input.value };
      search();
    });
    grid.append(element("label", { htmlFor: input.id, textContent: end }), input);
  }
  const set = element("fieldset", {}, element("legend", { textContent: facet.label }), grid);
  set.dataset.facet = facet.name;
  return set;
}

async function count(facet, asked) {
  const found = await ask("counts", { name: facet.name, filters: state.filters });
  if (asked !== state.asked) return;
  const chosen = new Set(state.filters[facet.name] || []);
  for (const value of chosen) if (!found.some((item) => item.value === value)) found.push({ value, count: 0 });
  const box = $(`[data-facet="${facet.name}"] .values`);
  const focused = document.activeElement?.dataset?.value;
  const inside = box.contains(document.activeElement);
  box.replaceChildren(...found.map(({ value, count: number }) => {
    const input = element("input", { type: "checkbox", checked: chosen.has(value) });
    input.dataset.value = value;
    input.addEventListener("change", () => {
      input.checked ? chosen.add(value) : chosen.delete(value);
      state.filters[facet.name] = [...chosen];
      search();
    });
    return element("label", {}, input, element("span", { textContent: value }), element("span", { className: "count", textContent: number }));
  }));
  if (inside) [...box.querySelectorAll("input")].find((input) => input.dataset.value === focused)?.focus();
  box.parentElement.hidden = found.length === 0;
}

function age(text) {
  const match = /^0*(\d+)([DWMY])$/.exec(text);
  return match ? `${match[1]} ${{ D: "days", W: "weeks", M: "months", Y: "years" }[match[2]]}` : text;
}

function row(study) {
  const made = $("#row").content.cloneNode(true);
  const texts = {
    patient: study.patient, date: study.date, modalities: study.modalities.join(", "), description: study.description,
    person: [study.sex, age(study.age)].filter(Boolean).join(", "), parts: study.parts.join(", "),
    series: study.series, images: study.images, site: study.site,
  };
  for (const [name, text] of Object.entries(texts)) $(`.${name}`, made).textContent = text ?? "";
  const picture = $("img", made);
  picture.alt = `${texts.modalities} of ${study.patient}`;
  picture.addEventListener("error", () => { picture.style.visibility = "hidden"; });
  picture.src = `/dicom-web/studies/${study.study}/thumbnail?accept=image/jpeg&viewport=128,128`;
  const open = $(".open", made);
  open.setAttribute("aria-label", `Open ${texts.modalities} of ${study.patient}`);
  if (state.viewer) open.href = `/viewer?StudyInstanceUIDs=${study.study}`;
  else { open.removeAttribute("target"); open.href = "#"; open.addEventListener("click", (event) => { event.preventDefault(); complain("OHIF is not here yet: end mdm view, run `mdm view --fetch-viewer`, start it again."); }); }
  $(".removed", made).setAttribute("aria-label", `What was removed from ${texts.modalities} of ${study.patient}`);
  $(".removed", made).addEventListener("click", () => showRecord(study));
  return made;
}

async function search(offset = 0) {
  state.offset = offset;
  const asked = ++state.asked;
  remember();
  try {
    const found = await ask("search", { filters: state.filters, offset });
    if (asked !== state.asked) return;
    complain(failuresOf(found));
    state.total = found.total;
    $("#results tbody").replaceChildren(...found.studies.map(row));
    const last = offset + found.studies.length;
    $("#status").textContent = found.total
      ? `${found.total} ${found.total === 1 ? "study" : "studies"}${found.total > found.studies.length ? `, ${offset + 1} to ${last} shown` : ""}`
      : "No study that you may see matches.";
    $("#earlier").hidden = offset === 0;
    $("#later").hidden = last >= found.total;
    state.page = found.studies.length;
    for (const facet of state.facets) if (facet.kind === "values") count(facet, asked).catch((error) => complain(error.message));
  } catch (error) {
    if (asked === state.asked) { complain(error.message); $("#status").textContent = ""; }
  }
}

function remember() {
  const chosen = Object.fromEntries(Object.entries(state.filters).filter(([, value]) => value && Object.keys(value).length));
  history.replaceState(null, "", Object.keys(chosen).length ? `#filters=${encodeURIComponent(JSON.stringify(chosen))}` : location.pathname);
}

function apply(filters) {
  state.filters = filters || {};
  $("#text").value = state.filters.text || "";
  for (const facet of state.facets.filter((item) => item.kind === "dates"))
    for (const end of ["from", "to"]) $(`#${facet.name}-${end}`).value = state.filters[facet.name]?.[end] || "";
  search();
}

async function showRecord(study) {
  const body = $("#record-body");
  body.replaceChildren("Reading one image of the study…");
  $("#record").showModal();
  try {
    const found = await ask("deidentification", { study: study.study });
    const list = element("dl");
    const add = (term, ...values) => list.append(element("dt", { textContent: term }), ...values.map((value) => element("dd", { textContent: value })));
    add("Identity removed", found.removed || "not stated");
    add("Method", found.method || "not stated");
    if (found.codes.length) add("Profile and options", ...found.codes.map((code) => `${code.meaning} (${code.code} ${code.scheme})`));
    if (found.dates) add("Times", found.dates);
    if (found.burned_in) add("Text in the pixels", found.burned_in);
    add("Elements emptied", found.empty.join(", ") || "none");
    add("Elements taken out", "What the profile removes is not in the header at all, so that nothing says what it was.");
    add("Pseudonym of the patient", study.patient);
    add("Name in the grid", study.lfn || "");
    body.replaceChildren(list);
  } catch (error) {
    body.replaceChildren(error.message);
  }
}

async function runSql() {
  $("#sql-status").textContent = "Asking…";
  $("#sql-rows").replaceChildren();
  $("#sql-studies").hidden = true;
  try {
    const found = await ask("sql", { sql: $("#sql-text").value });
    const head = element("tr", {}, ...found.columns.map((name) => element("th", { scope: "col", textContent: name })));
    const rows = found.rows.map((values) => element("tr", {}, ...values.map((value) => element("td", { textContent: value ?? "" }))));
    $("#sql-rows").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
    $("#sql-status").textContent = `${found.rows.length} rows${found.more ? ", and more that are not shown" : ""}. ${failuresOf(found)}`;
    const studies = [...new Set(found.studies.filter(Boolean))];
    $("#sql-studies").hidden = studies.length === 0;
    $("#sql-studies").textContent = `Show these ${studies.length} studies`;
    $("#sql-studies").onclick = () => apply({ StudyInstanceUID: studies });
  } catch (error) {
    $("#sql-status").textContent = error.message;
  }
}

async function showSaved(found) {
  state.saved = found;
  $("#saved-names").replaceChildren(...Object.keys(found).map((name) => element("option", { value: name })));
}

function listen() {
  let pause;
  $("#text").addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(() => { state.filters.text = $("#text").value; search(); }, 250);
  });
  $("#filters").addEventListener("submit", (event) => event.preventDefault());
  $("#filters").addEventListener("reset", () => setTimeout(() => apply({})));
  $("#earlier").addEventListener("click", () => search(Math.max(state.offset - state.pageSize, 0)));
  $("#later").addEventListener("click", () => search(state.offset + state.page));
  $("#sql-form").addEventListener("submit", (event) => { event.preventDefault(); runSql(); });
  $("#sql-text").addEventListener("keydown", (event) => { if (event.key === "Enter" && event.ctrlKey) runSql(); });
  $("#saved").addEventListener("submit", (event) => event.preventDefault());
  const name = () => $("#saved-name").value.trim();
  const guarded = (work) => () => work().catch((error) => complain(error.message));
  $("#saved-save").addEventListener("click", guarded(async () =>
    showSaved(await ask("save", { name: name(), search: { filters: state.filters, sql: $("#sql-text").value } }))));
  $("#saved-delete").addEventListener("click", guarded(async () => showSaved(await ask("save", { name: name(), search: null }))));
  $("#saved-load").addEventListener("click", () => {
    const found = state.saved?.[name()];
    if (!found) return complain("No search is saved under this name.");
    $("#sql-text").value = found.sql || $("#sql-text").value;
    apply(found.filters);
  });
}

async function start() {
  listen();
  const found = await ask("facets");
  Object.assign(state, { viewer: found.viewer, pageSize: 50 });
  $("#caller").textContent = found.caller;
  complain(failuresOf(found));
  const site = { name: "site", label: "Site", kind: "values" };
  state.facets = [site, ...found.facets];
  $("#facets").replaceChildren(...state.facets.map((facet) => (facet.kind === "dates" ? datesFacet(facet) : valuesFacet(facet))));
  const base = found.sites.length ? found.bases[0] : "/biomed/{site}";
  $("#sql-text").value = `SELECT study, lfn, Modality, Rows, SliceThickness FROM "${base}/images" WHERE Modality = 'CT' LIMIT 100`;
  showSaved(await ask("searches"));
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.has("sql")) {
    $("#sql").open = true;
    $("#sql-text").value = given.get("sql");
    runSql();
  }
  let filters = {};
  try { filters = JSON.parse(given.get("filters") || "{}"); } catch { complain("The filters in the address cannot be read."); }
  if (given.get("studies")) filters = { StudyInstanceUID: given.get("studies").split(",") };
  apply(filters);
}

start().catch((error) => { complain(error.message); $("#status").textContent = ""; });
