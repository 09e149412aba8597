"use strict";
(() => {
  const run = JSON.parse(document.getElementById("run").textContent);
  const $ = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const hovers = matchMedia("(hover: hover)").matches; // on a touch screen a drag scrolls the page
  const narrow = matchMedia("(max-width: 520px)");
  const plots = [...document.querySelectorAll(".plot[data-figure]")];
  let state = { cost: run.costs[0].name, stop: Number($("budget").value), tooLow: false };

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
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      hoverlabel: { bgcolor: "@card", bordercolor: "@line", font: { color: "@text", size: 13 }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "@muted", activecolor: "@first" },
      hovermode: "closest",
      dragmode: hovers ? "zoom" : false,
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
    if (name === "front") return withPick(run.figures.front[state.cost]);
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
    return { data, layout: { ...figure.layout, shapes: [budget] } };
  }

  function draw(plot) {
    const figure = figureOf(plot);
    const { data, layout: whole } = painted({ data: 0, layout: layout(figure.layout) });
    if (figure.layout.height) plot.style.height = `${figure.layout.height}px`;
    return Plotly.react(plot, figure.data.map((trace) => painted(trace)), { ...whole, shapes: (whole.shapes || []).map((s) => painted(s)) }, config);
  }

  const drawAll = () => plots.forEach(draw);
  const front = plots.find((plot) => plot.dataset.figure === "front");

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
    if (front && front.data) draw(front);
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

  // ---- start --------------------------------------------------------------------------------
  $("budget").addEventListener("input", (event) => { $("typed").value = ""; pick(Number(event.target.value)); });
  $("typed").addEventListener("change", typedBudget);
  $("typed").addEventListener("keydown", (event) => { if (event.key === "Enter") typedBudget(); });
  $("cost").addEventListener("change", changeCost);
  $("copy").addEventListener("click", copy);
  for (const choice of document.querySelectorAll("select[data-switch]")) {
    choice.addEventListener("change", () => draw(plots.find((plot) => plot.dataset.figure === choice.dataset.switch)));
  }
  dark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  $("cost").value = state.cost;
  show();
  drawAll();
  front.on("plotly_click", (event) => {
    const cost = event.points[0].x;
    pickWithin(cost, costOf(state.cost).title);
    $("budget").focus();
  });
  document.documentElement.dataset.ready = "true";
})();
