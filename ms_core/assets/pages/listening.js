"use strict";
// A blind test of clips whose systems this page does not know: it has ids, and the key to them lies in another file.
(() => {
  const byId = (id) => document.getElementById(id);
  const test = JSON.parse(byId("test").textContent);
  const clips = new Map(test.clips.map((clip) => [clip.id, clip]));
  const store = "ms-listening-" + test.page;
  const players = [byId("prompt"), byId("clip")];
  let state = null; // { page, listener, seed, started, order, at, heard: {clip: [player ids]}, ratings: {clip: marks} }

  // ---- random order: mulberry32, seeded, so that the seed alone tells the order
  function generator(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  function shuffled(names, seed) {
    const random = generator(seed);
    const order = [...names];
    for (let i = order.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  function newListener() {
    const drawn = crypto.getRandomValues(new Uint32Array(3));
    const listener = [...drawn.slice(1)].map((n) => n.toString(16).padStart(8, "0")).join("");
    const order = shuffled(clips.keys(), drawn[0]);
    const started = new Date().toISOString();
    return { page: test.page, listener, seed: drawn[0], started, order, at: 0, heard: {}, ratings: {} };
  }

  // ---- what survives a closed tab
  function keep() {
    try {
      localStorage.setItem(store, JSON.stringify(state));
    } catch {
      byId("unsaved").hidden = false;
      byId("status").before(byId("unsaved"));
    }
  }

  function kept() {
    try {
      const found = JSON.parse(localStorage.getItem(store));
      return found && found.page === test.page && found.order.every((id) => clips.has(id)) ? found : null;
    } catch {
      return null;
    }
  }

  // ---- one clip
  const current = () => state.order[state.at];
  const marks = (id) => state.ratings[id] ?? {};
  const rated = (id) => test.scales.every((scale) => marks(id)[scale.key]);
  const heard = (id) => players.every((player) => (state.heard[id] ?? []).includes(player.id));
  const complete = () => state.order.every(rated);
  const source = (sound) => "data:audio/wav;base64," + test.sounds[sound];

  function showOnly(id) {
    for (const section of ["welcome", "trial", "done"]) byId(section).hidden = section !== id;
    for (const player of players) player.pause();
  }

  function show() {
    const clip = clips.get(current());
    showOnly("trial");
    byId("text").textContent = clip.text;
    byId("prompt").src = source(clip.prompt);
    byId("clip").src = source(clip.sound);
    byId("listener").textContent = state.listener;
    byId("seed").textContent = state.seed;
    refresh();
    byId("where").focus();
  }

  function activeScale() {
    const focused = document.activeElement.closest?.("fieldset");
    if (focused) return focused.dataset.scale;
    return (test.scales.find((scale) => !marks(current())[scale.key]) ?? test.scales[0]).key;
  }

  function refresh() {
    const id = current();
    const done = state.order.filter(rated).length;
    byId("where").textContent = `Clip ${state.at + 1} of ${state.order.length}`;
    byId("progress").max = state.order.length;
    byId("progress").value = done;
    for (const field of byId("scales").elements) {
      if (field.type !== "radio") continue;
      field.disabled = !heard(id);
      field.checked = marks(id)[field.name] === Number(field.value);
    }
    byId("status").textContent = !heard(id)
      ? "Hear the prompt and the clip to their ends, then give the marks."
      : `${rated(id) ? "This clip is rated" : "Give the marks"}; ${done} of ${state.order.length} clips are rated.`;
    byId("back").disabled = state.at === 0;
    byId("finish").hidden = !complete();
    highlight();
  }

  function highlight() {
    for (const set of byId("scales").children) set.classList.toggle("active", set.dataset.scale === activeScale());
  }

  function rate(scale, mark) {
    const id = current();
    if (!heard(id)) return refresh();
    state.ratings[id] = { ...marks(id), [scale]: mark };
    keep();
    refresh();
  }

  function go(step) {
    if (step > 0 && state.at === state.order.length - 1) {
      if (complete()) return finish();
      state.at = state.order.findIndex((id) => !rated(id));
    } else {
      state.at = Math.min(Math.max(state.at + step, 0), state.order.length - 1);
    }
    keep();
    show();
  }

  function finish() {
    state.finished ??= new Date().toISOString();
    keep();
    showOnly("done");
    byId("thanks").focus();
  }

  function toggle(player) {
    if (player.paused) player.play();
    else player.pause();
  }

  // ---- the file
  function save() {
    const { listener, seed, started, finished } = state;
    const ratings = state.order.map((clip) => ({ clip, ...state.ratings[clip] }));
    const value = { format: test.format, page: test.page, listener, seed, started, finished, ratings };
    const link = document.createElement("a");
    link.download = `listening-${test.page.slice(0, 12)}-${listener}.json`;
    link.href = URL.createObjectURL(new Blob([JSON.stringify(value, null, 1) + "\n"], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    byId("saved").textContent = `Saved as ${link.download}.`;
    byId("another").disabled = false;
  }

  // ---- building and wiring
  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  for (const scale of test.scales) {
    const strong = element("strong", { textContent: scale.name });
    byId("questions").append(element("li", {}, strong, `: ${scale.question}`));
    const set = element("fieldset", {}, element("legend", { textContent: `${scale.name}: ${scale.question}` }));
    set.dataset.scale = scale.key;
    const row = element("div", { className: "marks" });
    test.marks.forEach((word, index) => {
      const input = element("input", { type: "radio", name: scale.key, value: String(index + 1), disabled: true });
      input.addEventListener("change", () => rate(scale.key, index + 1));
      row.append(element("label", {}, input, `${index + 1} ${word}`));
    });
    set.append(row);
    byId("scales").append(set);
  }
  byId("count").textContent = test.clips.length;
  byId("digest").textContent = test.page.slice(0, 12);

  for (const player of players) {
    player.addEventListener("play", () => {
      for (const other of players) if (other !== player) other.pause();
    });
    player.addEventListener("ended", () => {
      const id = current();
      state.heard[id] = [...new Set([...(state.heard[id] ?? []), player.id])];
      keep();
      refresh();
    });
  }

  document.addEventListener("keydown", (event) => {
    if (byId("trial").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    const on = event.target.tagName;
    if (on === "AUDIO" && (event.key === " " || event.key.startsWith("Arrow"))) return; // the player's own keys
    if (on === "BUTTON" && event.key === " ") return;
    if (event.key === " ") toggle(byId("clip"));
    else if (event.key.toLowerCase() === "p") toggle(byId("prompt"));
    else if (event.key >= "1" && event.key <= String(test.marks.length) && event.key.length === 1) {
      const scale = activeScale();
      document.activeElement.blur(); // the next mark goes to the next scale that has none
      rate(scale, Number(event.key));
    } else if (event.key === "ArrowRight") go(1);
    else if (event.key === "ArrowLeft") go(-1);
    else return;
    event.preventDefault();
  });
  document.addEventListener("focusin", () => state && !byId("trial").hidden && highlight());
  byId("scales").addEventListener("submit", (event) => event.preventDefault());
  byId("back").addEventListener("click", () => go(-1));
  byId("next").addEventListener("click", () => go(1));
  byId("finish").addEventListener("click", finish);
  byId("save").addEventListener("click", save);
  byId("again").addEventListener("click", show);
  byId("another").addEventListener("click", () => {
    localStorage.removeItem(store);
    location.reload();
  });

  state = kept();
  if (state) byId("start").textContent = "Go on";
  byId("start").addEventListener("click", () => {
    state ??= newListener();
    keep();
    show();
  });
})();
