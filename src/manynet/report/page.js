"use strict";
(() => {
  let run = JSON.parse(document.getElementById("run").textContent); // a live page takes newer ones
  const $ = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const hovers = matchMedia("(hover: hover)").matches; // on a touch screen a drag scrolls the page
  const narrow = matchMedia("(max-width: 520px)");
  const live = document.documentElement.dataset.live === "true";
  let state = { cost: run.costs[0]?.name ?? "", stop: Number($("budget").value) || 0, tooLow: false };

  const plots = () => [...document.querySelectorAll(".plot[data-figure]")];
  const plotOf = (name) => document.querySelector(`.plot[data-figure="${name}"]`);

  const costOf = (name) => run.costs.find((cost) => cost.name === name);
  const current = () => costOf(state.cost).stops[state.stop];

  // ---- figures ------------------------------------------------------------------------------
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  // Colors are written as "@name"; only values of color keys are looked at, so no text can be hit.
  function painted(value, key = "") {
    if (Array.isArray(value)) return value;
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, painted(v, k)]));
    }
    return typeof value === "string" && value[0] === "@" && /color$/.test(key) ? color(value.slice(1)) : value;
  }

  function axis(given) {
    const look = { gridcolor: "@line", linecolor: "@line", tickcolor: "@line", zeroline: false, automargin: true, ticks: "outside", ticklen: 4 };
    return { ...look, ...given, title: { standoff: 10, ...given?.title }, fixedrange: !hovers };
  }

  function layout(given) {
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: color("sans"), size: narrow.matches ? 12 : 13, color: "@text" },
      margin: { l: 8, r: 12, t: hovers ? 58 : 34, b: 8 }, // room for the buttons above the legend
      legend: { font: { size: 12 }, orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      hoverlabel: { bgcolor: "@card", bordercolor: "@line", font: { color: "@text", size: 13 }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "@muted", activecolor: "@first" },
      hovermode: "closest",
      dragmode: hovers ? "zoom" : false,
      uirevision: "kept", // what the reader zoomed to stays when new figures come
      ...given,
      xaxis: axis(given.xaxis),
      yaxis: axis(given.yaxis),
    };
  }

  const config = {
    responsive: true, displaylogo: false, scrollZoom: false, displayModeBar: hovers ? "hover" : false,
    modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]], // none that sends data anywhere
  };

  function figureOf(plot) {
    const name = plot.dataset.figure;
    const choice = document.querySelector(`select[data-switch="${name}"]`);
    if (name === "front") return run.costs.length ? withPick(run.figures.front[state.cost]) : undefined;
    return choice ? run.figures[name][choice.value] : run.figures[name];
  }

  function withPick(figure) {
    const data = figure.data.slice();
    const member = run.members[current().member];
    data[data.length - 1] = { ...data[data.length - 1], x: [member.costs[state.cost]], y: [member.quality] };
    const budget = {
      type: "line", xref: "x", yref: "paper", x0: current().limit, x1: current().limit, y0: 0, y1: 1,
      line: { color: "@second", width: 1.5, dash: "dot" },
    };
    return { data, layout: { ...figure.layout, shapes: [budget], uirevision: state.cost } };
  }

  function draw(plot) {
    const figure = figureOf(plot);
    if (!figure) return;
    const { data, layout: whole } = painted({ data: 0, layout: layout(figure.layout) });
    if (figure.layout.height) plot.style.height = `${figure.layout.height}px`;
    Plotly.react(plot, figure.data.map((trace) => painted(trace)), { ...whole, shapes: (whole.shapes || []).map((s) => painted(s)) }, config);
  }

  const drawAll = () => plots().forEach(draw);

  // ---- the picked member --------------------------------------------------------------------
  function element(tag, text, className) {
    const made = document.createElement(tag);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  // A line may break before an option, but not within one.
  function inParts(command) {
    const place = command.lastIndexOf(" --") + 1;
    return [element("span", command.slice(0, place)), element("span", command.slice(place), "option")];
  }

  function rowOfCost([name, text]) {
    const chosen = name === state.cost ? "chosen" : "";
    return [element("dt", costOf(name)?.title ?? name, chosen), element("dd", text, chosen)];
  }

  function rowOfChoice([name, value, largest, share]) {
    const row = document.createElement("tr");
    const head = element("th", "");
    head.append(...name.split(/(?<=\.)/).flatMap((part) => [part, document.createElement("wbr")]));
    head.scope = "row";
    const last = element("td", "", "share");
    if (share !== null) {
      const meter = element("div", "", "meter");
      const bar = document.createElement("i");
      bar.style.width = `${Math.min(100, 100 * share)}%`;
      meter.append(bar);
      last.append(meter);
    }
    row.append(head, element("td", value, "number"), element("td", largest, "number muted"), last);
    return row;
  }

  function show() {
    const cost = costOf(state.cost);
    const stop = current();
    const member = run.members[stop.member];
    const slider = $("budget");
    slider.max = cost.stops.length - 1;
    slider.value = state.stop;
    slider.setAttribute("aria-valuetext", stop.valueText);
    $("limit").textContent = stop.limitText;
    $("least").textContent = cost.stops[0].limitText;
    $("most").textContent = cost.stops[cost.stops.length - 1].limitText;
    $("unit").textContent = cost.unit;
    $("status").textContent = state.tooLow || stop.status;
    $("status").classList.toggle("bad", Boolean(state.tooLow));
    $("quality").textContent = member.qualityText;
    $("costs").replaceChildren(...member.costTexts.flatMap(rowOfCost));
    $("command").replaceChildren(...inParts(stop.command));
    $("arch-summary").textContent = member.summary;
    $("arch").replaceChildren(...member.choices.map(rowOfChoice));
    showExported(member, stop);
    if (plotOf("front").data) draw(plotOf("front"));
    compare();
  }

  // Where the picked member's files are; a live page links to them, and may offer to make them.
  function showExported(member, stop) {
    const parts = member.files.flatMap(({ name, files }) => {
      if (!live) {
        const link = element("a", name);
        link.href = "#exports";
        const said = element("p", "Exported already, as ");
        said.append(link);
        return [said];
      }
      const list = document.createElement("ul");
      list.append(...files.map(([file, href, size]) => {
        const link = element("a", file);
        link.href = href;
        link.download = `${name}-${file}`;
        const item = document.createElement("li");
        item.append(link, element("span", ` ${size}`, "muted"));
        return item;
      }));
      return [element("p", `Exported as ${name}; download`), list];
    });
    const offer = window.manynetOffer;
    if (offer) parts.push(...offer(run, state.cost, stop, parts.length > 0));
    $("exported").replaceChildren(...parts);
  }

  function pick(stop, tooLow = "") {
    state = { ...state, stop, tooLow };
    show();
  }

  function pickWithin(budget, text) {
    const { stops } = costOf(state.cost);
    const fitting = stops.filter((stop) => stop.cost <= budget).length;
    pick(Math.max(0, fitting - 1), fitting ? "" : `No member fits ${text}. The nearest one needs ${stops[0].limitText}.`);
  }

  function typedBudget() {
    const text = $("typed").value.trim();
    if (!text) return;
    const match = /^([0-9]*[.,]?[0-9]+(?:e[+-]?[0-9]+)?)\s*([kKMG](?=B?(?:\s|$)))?/.exec(text.replace(/(\d)[ ,](?=\d{3}\b)/g, "$1"));
    if (!match) {
      pick(state.stop, `“${text}” is not a number; try ${costOf(state.cost).example}.`);
      return;
    }
    const scale = { "": 1, k: 1e3, K: 1e3, M: 1e6, G: 1e9 }[match[2] ?? ""];
    pickWithin(Number(match[1].replace(",", ".")) * scale, text);
  }

  function changeCost() {
    const before = current().member;
    const { stops } = costOf($("cost").value);
    const same = stops.findIndex((stop) => stop.member === before);
    const asGood = stops.findIndex((stop) => run.members[stop.member].rank >= run.members[before].rank);
    $("typed").value = "";
    state = { cost: $("cost").value, stop: same >= 0 ? same : Math.max(0, asGood), tooLow: "" };
    show();
  }

  // ---- two members side by side -------------------------------------------------------------
  function option(value, text) {
    const made = element("option", text);
    made.value = value;
    return made;
  }

  function fillChoices() {
    const order = run.members.map((_, place) => place);
    for (const [id, fallback] of [["first", "picked"], ["second", "best"]]) {
      const before = $(id).value || fallback;
      const named = [option("picked", "the picked member"), option("best", "the best member"), option("least", "the cheapest member")];
      const members = order.map((place) => option(String(place), run.members[place].label));
      $(id).replaceChildren(...named, ...members);
      $(id).value = before;
      if (!$(id).value) $(id).value = fallback;
    }
  }

  function chosen(id) {
    const value = $(id).value;
    if (value === "picked") return run.members[current().member];
    const by = value === "best" ? (one) => -one.rank : (one) => one.costs[state.cost];
    if (value === "best" || value === "least") return run.members.reduce((a, b) => (by(b) < by(a) ? b : a));
    return run.members[Number(value)];
  }

  const times = (ratio) => `${Number(ratio.toPrecision(3))} ×`;

  function against(first, second) {
    if (first === second) return "same";
    return first > 0 && second > 0 ? times(second / first) : "";
  }

  function qualityAgainst(first, second) {
    if (first.quality === second.quality) return "same";
    if (!first.qualityText.endsWith("%")) return against(first.quality, second.quality);
    const points = 100 * (second.quality - first.quality);
    return `${points > 0 ? "+" : "−"}${Math.abs(points).toFixed(1)} points`;
  }

  function rowOfTwo(name, texts, last, better, className = "") {
    const row = document.createElement("tr");
    row.className = className;
    const head = element("th", "");
    head.append(...name.split(/(?<=\.)/).flatMap((part) => [part, document.createElement("wbr")]));
    head.scope = "row";
    const cells = texts.map((text, place) => element("td", text, `number${place === better ? " better" : ""}`));
    row.append(head, ...cells, element("td", last, "number"));
    return row;
  }

  const less = (a, b) => (a === b ? -1 : a < b ? 0 : 1);

  function compare() {
    const [a, b] = [chosen("first"), chosen("second")];
    const rows = [rowOfTwo(run.metric, [a.qualityText, b.qualityText], qualityAgainst(a, b), less(-a.rank, -b.rank))];
    a.costTexts.forEach(([name, text], place) => {
      const [x, y] = [a.costs[name], b.costs[name]];
      rows.push(rowOfTwo(costOf(name)?.title ?? name, [text, b.costTexts[place]?.[1] ?? ""], against(x, y), less(x, y)));
    });
    const choices = a.choices.map(([name, value], place) => [name, value, b.choices[place][1]]);
    const differ = choices.filter(([, x, y]) => x !== y);
    const equal = choices.filter(([, x, y]) => x === y); // they stay, so that nothing below moves
    for (const [name, x, y] of differ) rows.push(rowOfTwo(name, [x, y], against(Number(x), Number(y)), -1, "mono"));
    for (const [name, x, y] of equal) rows.push(rowOfTwo(name, [x, y], "same", -1, "mono muted"));
    $("compare-rows").replaceChildren(...rows);
    $("compare-note").textContent = a === b
      ? "Both are the same member; choose another one."
      : `${differ.length} of ${choices.length} choices differ. The better figure of two is bold.`;
  }

  // ---- copying ------------------------------------------------------------------------------
  function selected(node) {
    const range = document.createRange();
    range.selectNodeContents(node);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    return document.execCommand("copy");
  }

  async function copy() {
    let done = true;
    try {
      await navigator.clipboard.writeText($("command").textContent);
    } catch {
      done = selected($("command")); // browsers keep the clipboard from some local files
    }
    $("copy").textContent = done ? "Copied" : "Selected";
    setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
  }

  // ---- newer figures ------------------------------------------------------------------------
  // Replace a region only where its HTML has changed, so that nothing flickers or closes.
  const regions = new Map(Object.entries(run.html ?? {}));

  function replaceRegion(name, html) {
    const region = document.querySelector(`[data-region="${name}"]`);
    if (!region || regions.get(name) === html) return;
    const open = [...region.querySelectorAll("details")].map((part) => part.open);
    const choices = [...region.querySelectorAll("select")].map((part) => part.value);
    region.querySelectorAll(".plot").forEach((plot) => Plotly.purge(plot));
    region.innerHTML = html; // every text in it was escaped where it was made
    region.querySelectorAll("details").forEach((part, place) => { part.open = open[place] ?? part.open; });
    region.querySelectorAll("select").forEach((part, place) => { part.value = choices[place] ?? part.value; });
    regions.set(name, html);
    listen(region);
  }

  function update(next) {
    const limit = run.costs.length ? current().limit : null;
    const before = JSON.stringify(run.members);
    run = next;
    Object.entries(run.html).forEach(([name, html]) => replaceRegion(name, html));
    const any = run.costs.length > 0;
    $("pick").hidden = $("compare").hidden = !any;
    if (any) {
      if (!costOf(state.cost)) state = { cost: run.costs[0].name, stop: 0, tooLow: "" };
      if (limit === null) offerCosts();
      const { stops } = costOf(state.cost);
      const fitting = stops.filter((stop) => stop.cost <= limit).length;
      const stop = limit === null ? (stops.length - 1) >> 1 : Math.max(0, fitting - 1);
      state = { ...state, stop, tooLow: state.tooLow && limit !== null ? state.tooLow : "" };
      if (before !== JSON.stringify(run.members)) fillChoices();
      if (document.activeElement !== $("name")) show();
    }
    drawAll();
    if (any) listenToFront();
    showLinks();
  }

  // A live page has no use for links to what is not there yet.
  function showLinks() {
    for (const link of document.querySelectorAll("nav a")) {
      const target = document.querySelector(link.hash);
      link.hidden = !target || target.hidden;
    }
  }

  function offerCosts() {
    $("cost").replaceChildren(...run.costs.map((cost) => option(cost.name, cost.title)));
    $("cost").value = state.cost;
    document.querySelector(".quality .muted").textContent = run.metric;
  }

  function listenToFront() {
    const front = plotOf("front");
    if (!front.on || front.dataset.heard) return;
    front.dataset.heard = "true";
    front.on("plotly_click", (event) => {
      const cost = event.points[0].x;
      pickWithin(cost, costOf(state.cost).title);
      $("budget").focus();
    });
  }

  function listen(part) {
    for (const choice of part.querySelectorAll("select[data-switch]")) {
      choice.addEventListener("change", () => draw(plotOf(choice.dataset.switch)));
    }
  }

  // ---- start --------------------------------------------------------------------------------
  $("budget").addEventListener("input", (event) => { $("typed").value = ""; pick(Number(event.target.value)); });
  $("typed").addEventListener("change", typedBudget);
  $("typed").addEventListener("keydown", (event) => { if (event.key === "Enter") typedBudget(); });
  $("cost").addEventListener("change", changeCost);
  $("copy").addEventListener("click", copy);
  $("first").addEventListener("change", compare);
  $("second").addEventListener("change", compare);
  listen(document);
  dark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  if (run.costs.length) {
    $("cost").value = state.cost;
    fillChoices();
    show();
  }
  drawAll();
  if (run.costs.length) listenToFront();
  if (live) showLinks();
  window.manynet = { update, refresh: () => { if (run.costs.length) show(); } };
  document.documentElement.dataset.ready = "true";
})();
