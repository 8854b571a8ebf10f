// A row in the browser: keys, the live difference, drafts that are kept, answers that are saved or said not to be.
// The server draws the row (`row.html.j2`, `decision.html.j2`) and is told of every act until it has answered.
const review = (() => {
  const KEEP_MS = 1000, AGAIN_MS = 3000, IDLE_MS = 60000, LOST_MS = 5000;
  let desk = null;      // The form of the row that is open.
  let base = "";        // What the server put into its answer field.
  let told = null;      // What the server has not answered yet.
  let typed = null;     // The draft that the server has not answered yet.
  let keepLater = 0;
  let because = "";     // A decision's reason: the row is drawn anew when names are shown.
  let spent = 0, touched = Date.now();
  const raw = new Map();  // Texts as they were before differences were drawn into them.

  const $ = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const newId = () => [...crypto.getRandomValues(new Uint8Array(12))].map((n) => n.toString(16).padStart(2, "0")).join("");
  const connected = () => Boolean(window.socket && window.socket.connected && window.did_handshake);
  const send = (event, message) => connected() && emitEvent(event, message);
  const place = () => ({ batch: desk.dataset.batch, number: Number(desk.dataset.number) });
  const slot = () => ["review", desk.dataset.who, desk.dataset.batch, desk.dataset.number].join(" ");
  const open = () => desk && !("locked" in desk.dataset);

  const field = () => $("#answer");
  const value = () => (field() ? field().value : $("input[name=label]:checked")?.value || "");
  const rating = () => Number($("input[name=rating]:checked")?.value) || null;
  const put = (text) => {
    if (field()) field().value = text;
    else all("input[name=label]").forEach((choice) => (choice.checked = choice.value === text));
  };

  const say = (text) => $(".status") && ($(".status").textContent = text);
  const warn = (text) => {
    const alert = $(".alert");
    if (!alert) return;
    alert.textContent = text;
    alert.hidden = !text;
    if (text) alert.scrollIntoView({ block: "nearest" });
  };
  const wait = (waiting) => all("#desk .bar button").forEach((button) => (button.disabled = waiting));

  // What the row shows of the answer.
  const redraw = () => {
    const from = $("#suggestion");
    if (!from || !field()) return;
    if (!raw.has(from)) raw.set(from, from.textContent);
    const pieces = difference.between(raw.get(from), value());
    difference.draw(from, pieces, ["same", "gone", "new"]);
    const changed = pieces.filter(([kind]) => kind !== "same").length;
    $(".changes").textContent = changed ? `${changed} ${changed === 1 ? "change" : "changes"} by you` : "";
  };
  const compare = () => {
    const sides = all(".side .said");
    if (!field() || sides.length < 2) return;
    const texts = sides.map((side) => side.textContent);
    sides.forEach((side, at) => {
      raw.set(side, texts[at]);
      const [from, to] = at ? [texts[0], texts[at]] : [texts[0], texts[1]];
      difference.draw(side, difference.between(from, to), at ? ["same", "new"] : ["same", "gone"]);
    });
  };
  const fit = () => {
    if (!field()) return;
    field().style.height = "auto";
    field().style.height = `${field().scrollHeight + 2}px`;
  };

  const changed = () => {
    touched = Date.now();
    redraw();
    fit();
    mark();
    if (value() === base) sessionStorage.removeItem(slot());
    else sessionStorage.setItem(slot(), value());
    if (desk.dataset.place !== "rows") return;
    clearTimeout(keepLater);
    keepLater = setTimeout(keep, KEEP_MS);
  };
  const mark = () => all(".choice").forEach((choice) => choice.classList.toggle("chosen", choice.querySelector("input").checked));

  const keep = () => {
    if (!open() || told) return;
    typed = { ...place(), id: newId(), text: value(), since: Date.now() };
    tell();
  };
  const act = (decision, reason = $("#decision-reason")?.value || "") => {
    if (!open() || told) return;
    const answer = value();
    if (decision === "answer" && !answer.trim()) {
      warn(field() ? "Write an answer, or skip or flag the row." : "Choose a label, or skip or flag the row.");
      return;
    }
    clearTimeout(keepLater);
    typed = null;
    warn("");
    say("Saving…");
    wait(true);
    told = { ...place(), id: newId(), decision, answer, reason, rating: rating(), seconds: spent / 1000, since: Date.now() };
    tell();
  };
  // Over and over until the server has answered: the connection may be gone, and come back.
  const tell = () => {
    for (const [event, message] of [["spoken", told], ["typed", typed]]) {
      if (!message) continue;
      const { since, ...content } = message;
      send(event, content);
      if (Date.now() - since > AGAIN_MS)
        warn(event === "spoken" ? "Not saved yet: the gateway does not answer. Your text stays here and is sent again." :
          "Not kept yet: the gateway does not answer. Your text stays in this tab.");
    }
  };
  setInterval(tell, AGAIN_MS);

  // What the server answers.
  const saved = (id, word) => {
    if (!told || told.id !== id) return;
    sessionStorage.removeItem(["review", desk.dataset.who, told.batch, told.number].join(" "));
    told = null;
    toast(word || "Saved");
  };
  const refused = (id, word) => {
    if (!told || told.id !== id) return;
    told = null;
    wait(false);
    say("");
    warn(word);
  };
  const away = (id, word) => told && told.id === id && warn(`${word} Your text stays here and is sent again.`);
  const kept = (id) => {
    if (!typed || typed.id !== id) return;
    if (typed.text === value()) sessionStorage.removeItem(slot());
    typed = null;
    warn("");
    say("Draft kept");
  };
  const unkept = (id, word) => {
    if (!typed || typed.id !== id) return;
    typed = null;
    warn(`${word} Your text stays in this tab.`);
  };
  const stayed = (_, word) => say(word);
  const toast = (word) => {
    $(".toast")?.remove();
    const shown = document.createElement("div");
    shown.className = "toast";
    shown.textContent = word;
    shown.setAttribute("role", "status");
    document.body.append(shown);
    setTimeout(() => shown.remove(), Math.max(1500, word.length * 60));
  };

  const go = (way) => {
    if (!desk || told) return;
    if (open() && desk.dataset.place === "rows" && value() !== base) keep();
    send("going", { way });
  };

  const took = (found) => {
    const before = desk && slot();
    desk = found;
    if (slot() !== before) because = "";
    else if ($("#decision-reason") && because) $("#decision-reason").value = because;
    raw.clear();
    typed = null;
    spent = 0;
    touched = Date.now();
    base = value();
    compare();
    if (open()) {
      const left = sessionStorage.getItem(slot());
      if (left !== null && left !== base) {
        put(left);
        if (desk.dataset.place === "rows") keepLater = setTimeout(keep, 0);
        say("What you had typed is back.");
      } else if (desk.dataset.draft) say("What you had typed is back.");
    }
    redraw();
    fit();
    mark();
    window.scrollTo(0, 0);
    focus();
  };
  const focus = () => {
    // On a phone the keyboard would cover the row before it is read.
    if (matchMedia("(pointer: coarse)").matches) return;
    const to = (open() && desk.dataset.place === "rows" && (field() || $(".find"))) || desk;
    to.focus({ preventScroll: true });
    if (to === field()) to.setSelectionRange(to.value.length, to.value.length);
  };

  // Labels.
  const choose = (choice) => {
    if (!choice || !open()) return;
    choice.querySelector("input").checked = true;
    choice.scrollIntoView({ block: "nearest" });
    changed();
  };
  const found = () => all(".choice").filter((choice) => !choice.hidden);
  const find = () => {
    const wanted = $(".find").value.trim().toLowerCase();
    const rank = (name) => (name.startsWith(wanted) ? 0 : name.includes(wanted) ? 1 : 2);
    for (const choice of all(".choice")) choice.hidden = rank(choice.querySelector("input").value.toLowerCase()) === 2;
    const best = found().find((choice) => rank(choice.querySelector("input").value.toLowerCase()) === 0) || found()[0];
    aim(wanted ? best : null);
  };
  const aim = (choice) => {
    all(".choice.aimed").forEach((aimed) => aimed.classList.remove("aimed"));
    choice?.classList.add("aimed");
    choice?.scrollIntoView({ block: "nearest" });
  };
  const step = (by) => {
    const choices = found();
    const at = choices.indexOf($(".choice.aimed"));
    aim(choices[Math.min(Math.max(at + by, 0), choices.length - 1)]);
  };
  const findKey = (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") step(event.key === "ArrowDown" ? 1 : -1);
    else if (event.key === "Enter") {
      const aimed = $(".choice.aimed");
      if (aimed) {
        choose(aimed);
        $(".find").value = "";
        find();
      } else act("answer");
    } else return;
    event.preventDefault();
  };

  // Dialogs.
  const WHY = {
    skip: ["Skip this row", "You cannot say. Somebody else is asked.", "Skip"],
    flag: ["Flag this row", "The row itself is wrong: unreadable, private, off the task. A lead decides.", "Flag"],
    exclude: ["Exclude this row", "No label comes of it.", "Exclude"],
  };
  const ask = (kind) => {
    if (!open() || told) return;
    const dialog = $("#why");
    dialog.dataset.kind = kind;
    [$("#why-title").textContent, dialog.querySelector("p").textContent, dialog.querySelector(".main").textContent] = WHY[kind];
    $("#reason").value = "";
    dialog.showModal();
    $("#reason").focus();
  };
  const why = (event) => {
    const reason = $("#reason").value.trim();
    if (!reason) return event.preventDefault();
    act($("#why").dataset.kind === "skip" ? "skip" : "flag", reason);
  };

  const take = (letter) => {
    const side = $(`.side[data-letter="${letter}"] .said`);
    if (!side || !open()) return;
    put(raw.get(side) ?? side.textContent);
    all(".side").forEach((one) => one.classList.toggle("taken", one.dataset.letter === letter));
    changed();
    say(`${letter} taken`);
  };
  const acts = {
    earlier: () => go("earlier"),
    later: () => go("later"),
    skip: () => ask("skip"),
    flag: () => ask("flag"),
    exclude: () => ask("exclude"),
    keys: () => $("#keys").showModal(),
    close: () => $("dialog[open]")?.close(),
    guidelines: () => $(".guidelines") && ($(".guidelines").open = !$(".guidelines").open),
    rate: () => ($("input[name=rating]:checked") || $("input[name=rating]"))?.focus(),
    names: () => send("names", {}),
  };
  const ALT = {
    KeyS: "skip", KeyF: "flag", KeyX: "exclude", KeyG: "guidelines", KeyK: "keys", KeyR: "rate",
    ArrowUp: "earlier", ArrowDown: "later",
  };
  const offered = (name) => name === "guidelines" || name === "keys" || name === "rate" || $(`#desk [data-act=${name}]`);

  const keydown = (event) => {
    touched = Date.now();
    const dialog = $("dialog[open]");
    const sends = event.key === "Enter" && (event.ctrlKey || event.metaKey);
    if (dialog) {
      if (sends) dialog.querySelector("form").requestSubmit();
      return;
    }
    if (!desk || event.isComposing) return;
    const at = event.target;
    const writing = at.matches?.("textarea, input[type=search], input[type=text]");
    if (sends) {
      event.preventDefault();
      act("answer");
    } else if (event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      const name = ALT[event.code];
      const letter = event.code.startsWith("Key") && event.code.slice(3);
      if (name && offered(name)) acts[name]();
      else if (letter && $(`.side[data-letter="${letter}"]`)) take(letter);
      else return;
      event.preventDefault();
    } else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (at.matches?.(".find")) findKey(event);
    else if (event.key === "Escape" && writing) desk.focus();
    else if (writing) return;
    else if (event.key === "?") acts.keys();
    else if (/^[1-9]$/.test(event.key)) {
      const rates = at.matches?.("input[name=rating]") || !$(".choice");
      const choice = rates ? $(`input[name=rating][value="${event.key}"]`) : null;
      if (choice && open()) {
        choice.checked = true;
        choice.focus();
        touched = Date.now();
      } else if (!rates) choose(all(".choice")[event.key - 1]);
    } else if (/^[a-z]$/i.test(event.key)) take(event.key.toUpperCase());
    else if (event.key === "Enter" && !field() && !at.matches?.("input, button, a, summary")) act("answer");
  };

  const start = () => {
    document.addEventListener("keydown", keydown);
    document.addEventListener("pointerdown", () => (touched = Date.now()));
    document.addEventListener("input", (event) => {
      if (event.target.matches(".find")) find();
      else if (event.target.matches("#answer")) changed();
      else if (event.target.matches("#decision-reason")) because = event.target.value;
    });
    document.addEventListener("change", (event) => event.target.matches("input[name=label]") && changed());
    document.addEventListener("click", (event) => {
      const button = event.target.closest?.("[data-act], [data-take]");
      if (!button) return;
      if (button.dataset.take) take(button.dataset.take);
      else acts[button.dataset.act]();
    });
    document.addEventListener("submit", (event) => {
      if (event.target.matches("#desk")) {
        event.preventDefault();
        act("answer");
      } else if (event.target.closest("#why")) why(event);
    });
    new MutationObserver(() => {
      const now = $("#desk");
      if (now && now.dataset.opened !== desk?.dataset.opened) took(now);
      else if (!now) desk = null;
    }).observe(document.body, { childList: true, subtree: true });
    if ($("#desk")) took($("#desk"));
    if (matchMedia("(max-width: 900px)").matches && $(".guidelines")) $(".guidelines").open = false;
  };
  // Only time with the row in sight counts, and not that of a lunch.
  setInterval(() => {
    if (!document.hidden && Date.now() - touched < IDLE_MS) spent += 1000;
  }, 1000);
  // A gateway that was started anew knows nobody: its sign-in page is where to go, and what was typed waits in this tab.
  let lost = 0;
  setInterval(async () => {
    if (connected()) return (lost = 0);
    if (!desk || (lost += LOST_MS) <= LOST_MS) return;
    try {
      if ((await fetch(location.href, { redirect: "manual" })).type === "opaqueredirect") location.reload();
    } catch {
      // Still away; the next look tells.
    }
  }, LOST_MS);
  if (document.body) start();
  else document.addEventListener("DOMContentLoaded", start);
  return { saved, refused, away, kept, unkept, stayed };
})();
