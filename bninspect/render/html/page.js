"use strict";
// Draws the pictures that the page's data hold, and makes its tables sort, its search search and its links lead on.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const sections = new Map(data.sections.map((section) => [section.mark, section]));
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const find = (id) => document.getElementById(id);

  // ---- numbers: a block of float32, field by field, layer after layer
  const unpack = (channels) => {
    if (channels.values) return;
    const text = atob(channels.block);
    const bytes = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
    channels.values = new Float32Array(bytes.buffer);
    channels.total = channels.values.length / channels.fields.length;
    channels.block = "";
  };
  const derived = {
    number: (get, layer) => get("index") || Float32Array.from({ length: layer.size }, (_, at) => at),
    r: (get, layer) => get("r") || both(get("var"), get("running_var"), (a, b) => Math.sqrt((a + layer.eps) / (b + layer.eps))),
    log_r: (get, layer) => one(vector(null, layer, "r", get), Math.log2),
    log_r_median: (get) => one(get("r_median"), Math.log2),
    abs_z: (get) => one(get("z"), Math.abs),
  };
  const one = (values, change) => values && values.map(change);
  const both = (a, b, change) => a && b && a.map((value, at) => change(value, b[at]));
  const vector = (channels, layer, name, got) => {
    const get = got || ((field) => {
      unpack(channels);
      const at = channels.fields.indexOf(field);
      return at < 0 ? null : channels.values.subarray(at * channels.total + layer.start, at * channels.total + layer.start + layer.size);
    });
    return derived[name] ? derived[name](get, layer) : get(name);
  };
  const ends = (channels, layer, spec) => {
    let low = Infinity, high = -Infinity;
    for (const name of spec.$ends)
      for (const value of vector(channels, layer, name) || [])
        if (Number.isFinite(value) && (!spec.log || value > 0)) { low = Math.min(low, value); high = Math.max(high, value); }
    return low <= high ? [low, high] : [];
  };

  const dead = (channels, layer, spec) => {
    const [weight, spread] = ["weight", "var"].map((name) => vector(channels, layer, name));
    if (!weight || !spread) return spec.no;
    const moves = (at) => Math.abs(weight[at]) * Math.sqrt(spread[at] / (spread[at] + layer.eps));
    return Array.from(weight, (_, at) => (moves(at) < spec.$dead ? spec.yes : spec.no));
  };

  // ---- a picture as plotly takes it: colours of the page, vectors of its layers
  const filled = (spec, channels, layer) => {
    if (typeof spec === "string") return spec.startsWith("var(--") ? style(spec.slice(4, -1)) : spec;
    if (spec === null || typeof spec !== "object") return spec;
    if (Array.isArray(spec)) return typeof spec.at(-1) === "number" ? spec : spec.map((part) => filled(part, channels, layer));
    if ("$" in spec) return vector(channels, layer, spec.$) || [];
    if ("$lines" in spec) return channels.layers.flatMap((row) => [...vector(channels, row, spec.$lines) || [], NaN]);
    if ("$each" in spec) return channels.layers.flatMap((row) => Array(row.size + 1).fill(row[spec.$each]));
    if ("$rows" in spec) return channels.layers.map((row) => vector(channels, row, spec.$rows) || []);
    if ("$own" in spec) return (layer && layer[spec.$own]) || [];
    if ("$dead" in spec) return dead(channels, layer, spec);
    if ("$ends" in spec) return ends(channels, layer, spec);
    return Object.fromEntries(Object.entries(spec).map(([name, part]) => [name, filled(part, channels, layer)]));
  };
  const merged = (base, own) => {
    const out = { ...base };
    for (const [name, part] of Object.entries(own))
      out[name] = part && typeof part === "object" && !Array.isArray(part) ? merged(out[name] || {}, part) : part;
    return out;
  };
  const positive = (traces, axis) =>
    traces.filter((trace) => (trace[`${axis[0]}axis`] || axis[0]) === axis.replace("axis", "")).flatMap((trace) =>
      Array.from(trace[axis[0]] || []).filter((value) => value > 0 && Number.isFinite(value)));
  const powers = (values) => {
    let low = Infinity, high = 0;
    for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    return high > 0 ? Math.log10(high / low) : 0;
  };
  const layoutOf = (own, traces) => {
    const axis = { gridcolor: style("--rule"), linecolor: style("--soft"), automargin: true, exponentformat: "e", zerolinecolor: style("--rule") };
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: style("--text"), size: 12 },
      margin: { l: 48, r: 12, t: 8, b: 40 }, legend: { orientation: "h", y: 1, yanchor: "bottom" }, xaxis: axis, yaxis: axis,
      hoverlabel: { namelength: -1 }, dragmode: "zoom",
    };
    for (const place of ["yaxis2", "yaxis3"]) if (own[place]) base[place] = axis;
    const out = merged(base, own);
    for (const place of ["xaxis", "yaxis", "yaxis2"])
      if (out[place] && out[place].type === "log") {
        const count = powers(positive(traces, place));
        Object.assign(out[place], { tickformat: "~g" }, count > 2.5 ? { dtick: 1 } : count > 0.5 ? { dtick: "D2" } : {});
      }
    return out;
  };
  const room = (element) => { // a legend of many lines takes nothing from the picture
    const legend = element.querySelector(".legend");
    const lines = legend ? legend.getBoundingClientRect().height : 0;
    const wanted = Number(element.dataset.height) + Math.max(0, lines - 40);
    if (Math.abs(element.clientHeight - wanted) < 10) return;
    element.style.height = `${wanted}px`;
    Plotly.Plots.resize(element);
  };
  const pictures = [];
  const draw = (picture) => {
    const { spec, section, element } = picture;
    const channels = section && section.channels;
    const layer = section && section.chosen;
    if (picture.perLayer && !layer) return;
    const traces = spec.traces.map((trace) => filled(trace, channels, layer));
    (spec.choices[picture.choice] || []).forEach((own, at) => Object.assign(traces[at], filled(own, channels, layer)));
    for (const trace of traces)
      if (trace.type === "heatmap") trace.customdata = trace.z.map((row, at) => Array.from(row, () => trace.names[at]));
    const config = { displaylogo: false, responsive: true, displayModeBar: false };
    const layout = layoutOf(filled(spec.layout, channels, layer), traces);
    if (document.documentElement.classList.contains("paper")) layout.width = element.clientWidth;
    Plotly.react(element, traces, layout, config);
    if (!picture.drawn) {
      picture.drawn = true;
      element.on("plotly_afterplot", () => room(element));
      room(element);
      element.on("plotly_click", (event) => {
        const [point] = event.points;
        const path = point.data.layers && point.data.layers[[point.pointIndex].flat()[0]]; // of a heat map, row and column
        if (path) lead(section, path, spec.follows);
      });
    }
  };
  const collect = (mark, specs, section, perLayer) => {
    for (const spec of specs) {
      const figure = find(`${mark}-${spec.key}`);
      const picture = { spec, section, perLayer, element: figure.querySelector(".plot"), choice: 0, drawn: false };
      const choice = figure.querySelector(".choice");
      if (choice) choice.addEventListener("change", () => { picture.choice = Number(choice.value); draw(picture); });
      pictures.push(picture);
    }
  };

  // ---- a layer's panel
  const lead = (section, path, stay) => {
    const link = `#layer/${encodeURIComponent(path)}`;
    if (!stay) { location.hash = link; return; }
    history.pushState(null, "", link);
    mark(path);
  };
  const choose = (section, path) => {
    if (look(section, path)) pictures.filter((one) => one.section === section && one.drawn && (one.perLayer || one.spec.follows)).forEach(draw);
  };
  const look = (section, path) => {
    const layer = section.channels && section.channels.layers.find((row) => row.path === path);
    const panel = find(`${section.mark}-panel`);
    if (!layer || !panel) return false;
    section.chosen = layer;
    panel.querySelector("select.layer").value = path;
    const row = [...find(section.mark).querySelectorAll("tr[data-layer]")].find((one) => one.dataset.layer === path);
    const heads = row ? row.closest("table").tHead.rows[0].cells : [];
    panel.querySelector(".facts").replaceChildren(...[...(row ? row.cells : [])].flatMap((cell, at) => {
      const pair = document.createElement("div");
      pair.append(document.createElement("dt"), document.createElement("dd"));
      pair.firstChild.textContent = heads[at].textContent;
      pair.lastChild.append(...[...cell.childNodes].map((node) => node.cloneNode(true)));
      pair.lastChild.className = cell.className;
      return cell.matches("th") ? [] : [pair];
    }));
    const table = panel.querySelector("details.channels");
    table.querySelectorAll(".scroll").forEach((old) => old.remove());
    if (table.open) list(table, section);
    return true;
  };
  const list = (details, section) => {
    const { channels, chosen } = section;
    const names = ["number", ...channels.fields.filter((name) => name !== "index")];
    if (!names.includes("r") && vector(channels, chosen, "r")) names.push("r");
    const vectors = names.map((name) => vector(channels, chosen, name));
    const box = document.createElement("div");
    box.className = "scroll";
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", details.querySelector("summary").textContent);
    const table = box.appendChild(document.createElement("table"));
    const head = table.createTHead().insertRow();
    for (const name of names) {
      const cell = head.appendChild(document.createElement("th"));
      cell.scope = "col";
      cell.className = "right";
      cell.textContent = name === "number" ? channels.unit : name;
    }
    const body = table.createTBody();
    for (let at = 0; at < chosen.size; at++) {
      const row = body.insertRow();
      vectors.forEach((values, column) => {
        const cell = row.insertCell();
        cell.className = "right";
        cell.textContent = column ? shown(values[at]) : String(values[at]);
      });
    }
    details.append(box);
    sortable(table);
  };
  const printable = (text) => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => `\\u${char.codePointAt(0).toString(16).padStart(4, "0")}`);
  const shown = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(5))) : String(value));
  const panel = (section) => {
    const place = find(`${section.mark}-panel`);
    if (!place || !section.channels) return;
    const select = place.querySelector("select.layer");
    for (const layer of section.channels.layers) select.add(new Option(printable(layer.path), layer.path));
    select.addEventListener("change", () => { location.hash = `layer/${encodeURIComponent(select.value)}`; });
    const details = place.querySelector("details.channels");
    details.addEventListener("toggle", () => { if (details.open && !details.querySelector(".scroll")) list(details, section); });
    look(section, section.chosen.path);
  };

  // ---- tables: a click on a head sorts, by the manner of its column
  const numbers = (text) => (text.replace(/(\d),(?=\d{3})/g, "$1").match(/-?(\d+(\.\d+)?(e[+-]?\d+)?|inf)/gi) || [])
    .map((found) => Number(found.replace(/inf/i, "Infinity")));
  const furthest = (text) => Math.max(...numbers(text).map((value) => Math.abs(Math.log(value))));
  const largest = (text) => Math.max(...numbers(text).map(Math.abs));
  const manner = (head, texts) => {
    if (!head.classList.contains("right") || texts.some((text) => text.startsWith("["))) return { told: "", key: null };
    if (texts.some((text) => text.startsWith("x ")))
      return { told: "how far it is, of a quotient (x) by its logarithm", key: (text) => (text[0] === "x" ? furthest(text) / Math.LN2 : largest(text)) };
    if (!texts.some((text) => / (\.\.|\u2026) /.test(text))) return { told: "", key: (text) => numbers(text)[0] };
    if (/^r\b/.test(head.textContent)) return { told: "the end of its range that is further from 1", key: furthest };
    return { told: "the end of its range that is larger in size", key: largest };
  };
  const order = (table, column, { key }, down) => {
    const keyed = [...table.tBodies[0].rows].map((row) => {
      const text = row.cells[column].textContent;
      return { row, text, value: key && numbers(text).length ? key(text) : null };
    });
    const known = (one) => one.value !== null && !Number.isNaN(one.value);
    keyed.sort((a, b) => {
      if (key && known(a) !== known(b)) return known(a) ? -1 : 1;
      const way = key && known(a) ? a.value - b.value : a.text.localeCompare(b.text, "en", { numeric: true });
      return down ? -way : way;
    });
    table.tBodies[0].append(...keyed.map((one) => one.row));
  };
  const sortable = (table) => {
    table.querySelectorAll("thead th").forEach((head, column) => {
      const way = manner(head, [...table.tBodies[0].rows].map((row) => row.cells[column].textContent));
      const button = document.createElement("button");
      button.textContent = head.textContent;
      button.title = way.told ? `sort by ${way.told}` : "sort";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const first = way.key ? "descending" : "ascending";
        const sorted = head.getAttribute("aria-sort") !== first ? first : way.key ? "ascending" : "descending";
        table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", sorted);
        order(table, column, way, sorted === "descending");
        const told = table.closest(".report, .together").querySelector(`.sorted[data-of="${table.id}"]`);
        if (told) told.textContent = `sorted by ${head.textContent}${way.told ? `: ${way.told}` : ""}, ${sorted}`;
      });
    });
  };
  const searchable = (report) => {
    const tools = report.querySelector(".tools");
    if (!tools) return;
    tools.hidden = false;
    const [search, marked] = [tools.querySelector(".search"), tools.querySelector(".marked")];
    const rows = [...report.querySelectorAll("tr[data-layer]")];
    const apply = () => {
      const wanted = search.value.trim().toLowerCase();
      let count = 0;
      for (const row of rows) {
        const fits = row.dataset.layer.toLowerCase().includes(wanted);
        row.hidden = !fits || Boolean(marked && marked.checked && !row.querySelector(".warning, .error"));
        count += !row.hidden;
      }
      tools.querySelector(".shown").textContent = `${count} of ${rows.length}`;
    };
    search.addEventListener("input", apply);
    if (marked) marked.addEventListener("change", apply);
    apply();
  };

  // ---- links: #layer/PATH marks a layer in every report and opens its panel
  const follow = () => {
    const [kind, text] = [location.hash.slice(1, 7), location.hash.slice(7)];
    if (kind !== "layer/") return;
    let path;
    try { path = decodeURIComponent(text); } catch { return; }
    const place = mark(path);
    if (place) place.scrollIntoView({ block: "start" });
  };
  const mark = (path) => {
    document.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
    for (const section of sections.values()) choose(section, path);
    const rows = [...document.querySelectorAll("tr[data-layer]")].filter((row) => row.dataset.layer === path);
    rows.forEach((row) => row.classList.add("chosen"));
    return document.querySelector(".panel") || rows[0];
  };

  const paper = (wanted) => {
    document.documentElement.classList.toggle("paper", wanted);
    for (const details of document.querySelectorAll(".finding details")) {
      if (wanted) details.dataset.open = details.open ? "yes" : "";
      details.open = wanted || details.dataset.open === "yes";
    }
    pictures.forEach(draw);
  };
  const rest = (queue) => {
    const next = queue.shift();
    if (!next) { document.documentElement.dataset.ready = "all"; return; }
    draw(next);
    setTimeout(() => rest(queue), 0);
  };
  collect("all", data.pictures, null, false);
  for (const section of sections.values()) {
    if (section.channels) section.chosen = section.channels.layers[section.channels.chosen];
    collect(section.mark, section.pictures, section, false);
    collect(`${section.mark}-panel`, section.per_layer, section, true);
  }
  const [first] = pictures;
  if (first) draw(first);
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll(".report").forEach(searchable);
  sections.forEach(panel);
  addEventListener("hashchange", follow);
  addEventListener("beforeprint", () => paper(true));
  addEventListener("afterprint", () => paper(false));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => pictures.filter((one) => one.drawn).forEach(draw));
  requestAnimationFrame(() => setTimeout(() => { // the first picture is on the screen before the others are begun
    document.documentElement.dataset.first = String(Math.round(performance.now()));
    rest(pictures.slice(1));
  }));
  follow();
})();
