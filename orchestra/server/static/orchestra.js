// What pages do in the browser: times in the chosen zone, themes, copying, following logs, choosing rows.
(() => {
  "use strict";
  const kept = (name, fallback) => localStorage.getItem(`orchestra.${name}`) ?? fallback;
  const keep = (name, value) => localStorage.setItem(`orchestra.${name}`, value);

  // -- times ------------------------------------------------------------------------------------------------------
  const two = (number) => String(number).padStart(2, "0");
  function written(date, utc) {
    const get = (part) => (utc ? date[`getUTC${part}`]() : date[`get${part}`]());
    const day = `${get("FullYear")}-${two(get("Month") + 1)}-${two(get("Date"))}`;
    return [day, `${two(get("Hours"))}:${two(get("Minutes"))}:${two(get("Seconds"))}`];
  }
  function showTimes(root = document) {
    const utc = kept("zone", "local") === "utc";
    for (const element of root.querySelectorAll("time[datetime]")) {
      const date = new Date(element.dateTime);
      if (Number.isNaN(date.valueOf())) continue;
      const [day, clock] = written(date, utc);
      const short = element.closest(".clock");
      const text = short ? clock : `${day} ${clock}`;
      if (element.textContent !== text) element.textContent = text;
      element.title = utc ? `${day} ${clock} UTC` : `${day} ${clock}, ${element.dateTime.slice(0, 19).replace("T", " ")} UTC`;
    }
    for (const button of document.querySelectorAll("[data-switch=zone]")) button.textContent = utc ? "UTC" : "Local time";
  }

  // -- switches ---------------------------------------------------------------------------------------------------
  const themes = ["auto", "light", "dark"];
  function showTheme() {
    const theme = kept("theme", "auto");
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    for (const button of document.querySelectorAll("[data-switch=theme]")) {
      button.textContent = { auto: "Auto theme", light: "Light", dark: "Dark" }[theme] ?? "Auto theme";
    }
  }
  function onSwitch(button) {
    if (button.dataset.switch === "zone") {
      keep("zone", kept("zone", "local") === "utc" ? "local" : "utc");
      showTimes();
    } else {
      keep("theme", themes[(themes.indexOf(kept("theme", "auto")) + 1) % themes.length]);
      showTheme();
    }
  }

  // -- copying ----------------------------------------------------------------------------------------------------
  async function onCopy(button) {
    const source = button.dataset.copy ? button.dataset.copy : document.getElementById(button.dataset.copyFrom).textContent;
    await navigator.clipboard.writeText(source);
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1200);
  }

  // -- rows that are chosen ---------------------------------------------------------------------------------------
  function showChosen() {
    for (const form of document.querySelectorAll("form[data-rows]")) {
      const boxes = [...form.querySelectorAll("input[name=run]")];
      const chosen = boxes.filter((box) => box.checked).length;
      const label = form.querySelector("[data-chosen]");
      if (label) label.textContent = chosen ? `${chosen} chosen` : label.dataset.chosen;
      const all = form.querySelector("[data-all]");
      if (all) { all.checked = chosen > 0 && chosen === boxes.length; all.indeterminate = chosen > 0 && chosen < boxes.length; }
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.switch) onSwitch(button);
    if (button.dataset.copy !== undefined || button.dataset.copyFrom) onCopy(button);
  });
  document.addEventListener("change", (event) => {
    const element = event.target;
    if (element.matches("[data-all]")) {
      for (const box of element.form.querySelectorAll("input[name=run]")) box.checked = element.checked;
    }
    if (element.matches("[data-all], input[name=run]")) showChosen();
    if (element.matches("[data-submits]")) element.form.requestSubmit();
  });

  // -- forms that change something are sent once ------------------------------------------------------------------
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (event.target.dataset.sent) event.preventDefault();
    event.target.dataset.sent = "yes";
  });
  addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
  });

  // In a narrow window the parts are one line to scroll: the one that is shown is in view.
  document.querySelector(".top nav a[aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });

  // -- keys: / for the search, g and a letter for a part ----------------------------------------------------------
  let before = "";
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    if (event.key === "/") {
      const search = document.querySelector("input[type=search]");
      if (search) { event.preventDefault(); search.focus(); }
    } else if (before === "g") {
      const link = document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
      if (link) link.click();
    }
    before = event.key;
  });

  // -- live parts -------------------------------------------------------------------------------------------------
  // A list whose rows are being chosen, or a part in which something is typed, stays as it is until that is over.
  const typing = "input:not([type=checkbox]), textarea, select";
  const isBusy = (part) => part.querySelector("input[name=run]:checked")
    || part.contains(document.activeElement) && document.activeElement.matches(typing);
  const missed = new Map();
  document.addEventListener("htmx:before:request", (event) => {
    const part = event.target;
    if (!(part instanceof Element) || !part.matches("[data-live]") || !isBusy(part)) return;
    event.preventDefault();
    missed.set(part.id, event.detail.ctx.sourceEvent.type);
  });
  function catchUp() {
    for (const [id, change] of missed) {
      const part = document.getElementById(id);
      if (part && isBusy(part)) continue;
      missed.delete(id);
      htmx.trigger(document.body, change);
    }
  }
  for (const name of ["change", "focusout"]) document.addEventListener(name, () => setTimeout(catchUp));
  // What a busy server did not answer is asked for again: a part by the change that it missed, the stream by itself.
  function onFailure(event) {
    const { target: part, detail: { ctx } } = event;
    if (!(part instanceof Element) || !ctx || ctx.response && ctx.response.status < 500) return;
    const stream = part.getAttribute("hx-sse:connect");
    if (stream) setTimeout(() => part.isConnected && !part._htmx?.sse && htmx.ajax("GET", stream, { source: part }), 2000);
    else if (part.matches("[data-live]")) setTimeout(() => htmx.trigger(document.body, ctx.sourceEvent.type), 2000);
  }
  for (const name of ["htmx:error", "htmx:response:error"]) document.addEventListener(name, onFailure);
  // Whose session is over is sent to the login page, which is no part of this one.
  document.addEventListener("htmx:before:swap", (event) => {
    const answer = event.detail?.ctx?.response?.raw;
    if (answer?.redirected && new URL(answer.url).pathname === "/login") {
      event.preventDefault();
      location.reload();
    }
  });
  let atEnd = true;
  document.addEventListener("htmx:before:swap", () => {
    const log = document.getElementById("log-lines");
    atEnd = !log || log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  });
  function follow() {
    const log = document.getElementById("log-lines");
    if (log && atEnd) log.scrollTop = log.scrollHeight;
  }
  document.addEventListener("htmx:after:swap", () => { showTimes(); showChosen(); follow(); });
  document.addEventListener("DOMContentLoaded", () => { showTheme(); showTimes(); showChosen(); follow(); });
})();
