/* What the pages gain with JavaScript: charts drawn from their tables, polling that rests while unseen, focus after a swap.
   Everything here is an improvement; without it each page still reads and acts. */
"use strict";

(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const language = root.lang || "en";
  const plots = new Map();
  const DAY_SECONDS = 86400;

  // Charts

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const dayFormat = new Intl.DateTimeFormat(language, { month: "short", day: "numeric", timeZone: "UTC" });
  const numberFormat = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });

  function columnsOf(table) {
    const rows = [...table.tBodies[0].rows];
    const width = rows.length ? rows[0].querySelectorAll("[data-value]").length : 0;
    const columns = [rows.map((row) => Date.parse(row.dataset.day + "T00:00:00Z") / 1000)];
    for (let place = 0; place < width; place += 1) {
      columns.push(rows.map((row) => {
        const value = row.querySelectorAll("[data-value]")[place].dataset.value;
        return value === "" ? null : Number(value);
      }));
    }
    return columns;
  }

  function namesOf(table) {
    return [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  }

  /* The bands' borders behind the score, so that a line has something to be read against. */
  function drawBands(chart) {
    const { ctx, bbox } = chart;
    const stretches = [[0, 40, "--red-soft"], [40, 70, "--yellow-soft"], [70, 100, "--green-soft"]];
    ctx.save();
    for (const [from, to, name] of stretches) {
      const top = chart.valToPos(to, "y", true);
      ctx.fillStyle = colour(name);
      ctx.fillRect(bbox.left, top, bbox.width, chart.valToPos(from, "y", true) - top);
    }
    ctx.restore();
  }

  /* A line where another scorecard took over: what lies before it is another measure. */
  function drawMarks(chart) {
    const { ctx, bbox } = chart;
    const table = document.getElementById(chart.root.parentElement.dataset.table);
    if (!table) return;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--ink");
    ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const row of table.querySelectorAll("tr[data-mark]")) {
      const x = chart.valToPos(Date.parse(row.dataset.day + "T00:00:00Z") / 1000, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const room = 4 * devicePixelRatio;
      const right = x + room + ctx.measureText(row.dataset.mark).width < bbox.left + bbox.width;
      ctx.textAlign = right ? "left" : "right";
      ctx.textBaseline = "bottom";
      ctx.fillText(row.dataset.mark, right ? x + room : x - room, bbox.top + bbox.height - room);
    }
    ctx.restore();
  }

  function optionsOf(holder, names) {
    const score = holder.dataset.plot === "score";
    const axis = {
      stroke: colour("--muted"), font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif",
      grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 },
    };
    const shown = (_, value) => (value === null || value === undefined ? "–" : numberFormat.format(value));
    const line = { label: names[1], value: shown, width: 2, stroke: colour("--accent"), points: { show: score ? undefined : false } };
    const bars = {
      label: names[1], value: shown, width: 0, fill: colour("--spark"), stroke: colour("--spark"), points: { show: false },
      paths: window.uPlot.paths.bars({ size: [0.7, 24] }),
    };
    const logins = { label: names[2], value: shown, width: 2, stroke: colour("--ink"), points: { show: false } };
    return {
      width: holder.clientWidth - 24,
      height: 190,
      tzDate: (seconds) => window.uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      cursor: { y: false, drag: { x: false, y: false } },
      scales: {
        // Half a day of room, so that the last one can be pointed at; one day alone is shown as the last of a week.
        x: { range: (_, low, high) => [low - (low === high ? 6.5 : 0.5) * DAY_SECONDS, high + DAY_SECONDS / 2] },
        y: { range: score ? [0, 100] : (_, low, high) => [0, Math.max(high, 4) * 1.05] },
      },
      axes: [
        { ...axis, grid: { show: false }, space: 70, values: (_, splits) => splits.map((s) => dayFormat.format(new Date(s * 1000))) },
        { ...axis, size: 44, values: (_, splits) => splits.map((s) => numberFormat.format(s)) },
      ],
      series: [
        { label: names[0], value: (_, seconds) => (seconds ? dayFormat.format(new Date(seconds * 1000)) : "–") },
        ...(score ? [line] : [bars, logins]),
      ],
      hooks: { ready: [showLatest], draw: score ? [showLatest, drawMarks] : [showLatest], setCursor: [showLatest], drawClear: score ? [drawBands] : [] },
    };
  }

  /* A day of the chart leads where its row of the table does. */
  function openDay(table, place) {
    const link = table?.tBodies[0].rows[place]?.querySelector("a");
    if (link) window.location.assign(link.href);
  }

  function drawPlot(holder) {
    const table = document.getElementById(holder.dataset.table);
    if (!table || !window.uPlot) return;
    const data = columnsOf(table);
    const known = plots.get(holder);
    if (known) {
      known.setData(data);
      return;
    }
    const names = namesOf(table);
    holder.setAttribute("role", "img");
    holder.setAttribute("aria-label", table.caption.textContent.trim());
    const chart = new window.uPlot(optionsOf(holder, names), data, holder);
    plots.set(holder, chart);
    // By where the click was: a tap on a phone comes before the cursor has moved there.
    chart.over.addEventListener("click", (event) => openDay(document.getElementById(holder.dataset.table), chart.posToIdx(event.offsetX)));
    new ResizeObserver(() => {
      if (holder.isConnected) chart.setSize({ width: holder.clientWidth - 24, height: 190 });
    }).observe(holder);
  }

  /* While nothing is pointed at, the legend tells the newest values. */
  function showLatest(chart) {
    if (!(chart.cursor.left >= 0)) chart.setLegend({ idx: chart.data[0].length - 1 }, false);
  }

  function drawPlots() {
    for (const [holder, chart] of plots) {
      if (!holder.isConnected) {
        chart.destroy();
        plots.delete(holder);
      }
    }
    document.querySelectorAll("[data-plot]").forEach(drawPlot);
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const [holder, chart] of plots) {
      chart.destroy();
      plots.delete(holder);
      holder.replaceChildren();
    }
    drawPlots();
  });

  // Times: hovering shows the reader's own clock

  const clock = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
  function localiseTimes() {
    document.querySelectorAll("time[datetime][title]").forEach((element) => {
      const at = new Date(element.dateTime);
      if (!Number.isNaN(at.getTime())) element.title = clock.format(at);
    });
  }

  /* A snooze ends where the reader's day begins: the form says where that is, the mark says which day it is there. */
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
  const ownDay = new Intl.DateTimeFormat(language, { dateStyle: "medium" });
  function localiseDays() {
    document.querySelectorAll("[data-zone]").forEach((field) => { field.value = zone; });
    document.querySelectorAll("time[data-local-day]").forEach((element) => {
      const at = new Date(element.dateTime);
      if (!Number.isNaN(at.getTime())) element.textContent = ownDay.format(at);
    });
  }

  function settle() {
    drawPlots();
    localiseTimes();
    localiseDays();
  }

  // htmx

  const contextOf = (event) => event.detail.ctx;
  const isPoll = (context) => context.sourceElement.hasAttribute("data-poll");

  document.addEventListener("htmx:config:request", (event) => {
    const context = contextOf(event);
    if (!context.sourceElement.hasAttribute("data-tidy")) return;
    for (const [name, value] of [...context.request.body]) {
      if (value === "") context.request.body.delete(name);
    }
  });

  /* What is being logged stands on the timeline at once. The answer brings the page anew; a failure takes it back. */
  function showPending(form) {
    const list = document.querySelector(form.dataset.pending);
    if (!list) return;
    const line = form.querySelector("template").content.firstElementChild.cloneNode(true);
    line.querySelector(".what").textContent = form.querySelector("select").selectedOptions[0].textContent;
    line.querySelector(".note").textContent = form.querySelector("textarea").value.trim();
    line.dataset.unsure = "";
    list.prepend(line);
  }

  document.addEventListener("htmx:before:request", (event) => {
    const context = contextOf(event);
    if (context.sourceElement.dataset.pending) showPending(context.sourceElement);
    if (!isPoll(context)) root.classList.add("htmx-busy");
    else if (document.hidden) event.preventDefault();
  });

  document.addEventListener("htmx:finally:request", () => root.classList.remove("htmx-busy"));

  /* An answer without the part that was asked for (an error page, a proxy's) would leave a hole: let the browser show it. */
  document.addEventListener("htmx:after:request", (event) => {
    const context = contextOf(event);
    if (!context.select || context.text.includes(`id="${context.select.slice(1)}"`)) return;
    event.preventDefault();
    if (context.request.method === "GET") window.location.assign(context.request.action);
    else window.location.reload();
  });

  document.addEventListener("htmx:after:request", (event) => {
    const live = document.querySelector(".live");
    if (live && isPoll(contextOf(event))) live.classList.remove("live-paused");
  });

  document.addEventListener("htmx:error", (event) => {
    if (!event.detail.ctx || !isPoll(event.detail.ctx)) document.querySelectorAll("[data-unsure]").forEach((line) => line.remove());
    const live = document.querySelector(".live");
    if (live && event.detail.ctx && isPoll(event.detail.ctx)) live.classList.add("live-paused");
  });

  document.addEventListener("htmx:after:swap", (event) => {
    settle();
    const context = contextOf(event);
    if (!context || isPoll(context)) return;
    const wanted = document.querySelector("[data-focus]");
    if (wanted) wanted.focus();
  });

  settle();
  document.querySelector("[data-focus]")?.focus();
})();
