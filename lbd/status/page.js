// Draws what the stream tells, once a second. Text goes in as text only, never as markup.

const TREND = 120;
const EVENTS = 200;
const SHARE = 10; // looks; a second's new flows are too few to divide
const MODES = { learn: "learns", frozen: "frozen", shadow: "in shadow", paused: "paused" };
const STATES = { up: "good", slow_start: "warn", drain: "warn", maint: "warn" };
const $ = (id) => document.getElementById(id);
const drawn = new Map();
const past = []; // the newest last

const amount = (value) =>
  value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toPrecision(2);
const duration = (ms) =>
  ms === null ? "–" : ms < 1 ? `${Math.round(ms * 1000)} µs` : ms < 1000 ? `${amount(ms)} ms` : `${amount(ms / 1000)} s`;

function put(root, selector, text, kind) {
  const element = root.querySelector(selector);
  if (element.textContent !== text) element.textContent = text;
  for (const each of ["good", "bad", "warn"]) element.classList.toggle(each, each === kind);
  return element;
}

function bar(root, selector, value, most, text) {
  put(root, selector, text).style.setProperty("--part", most > 0 ? value / most : 0);
}

function copyOf(id) {
  return $(id).content.firstElementChild.cloneNode(true);
}

// What each name of `list` is drawn in: kept, made, or removed.
function elements(parent, known, list, template) {
  for (const [name, element] of known) {
    if (!list.some((one) => one.name === name)) {
      element.remove();
      known.delete(name);
    }
  }
  return list.map((one) => {
    if (!known.has(one.name)) {
      const element = copyOf(template);
      parent.append(element);
      known.set(one.name, element);
    }
    return known.get(one.name);
  });
}

// A counter that went back belongs to another life of the daemon.
function rate(now, before, seconds) {
  return before === undefined || now < before || seconds <= 0 ? 0 : (now - before) / seconds;
}

function agentText(agent) {
  if (!agent.up) return ["no agent", "warn"];
  const silent = agent.age_s === null || agent.age_s > 2;
  if (silent) return ["agent silent", "bad"];
  return [`agent ${MODES[agent.mode] ?? "attached"}`, agent.mode === "paused" ? "warn" : "good"];
}

function serviceOf(state, name) {
  return state?.services.find((one) => one.name === name);
}

function drawService(element, service, state) {
  const last = past.at(-1);
  const before = serviceOf(last, service.name);
  const seconds = last ? state.at_s - last.at_s : 0;
  const rows = (element.rows ??= new Map());
  const failuresOf = (list) => list.reduce((sum, one) => sum + one.failures_total, 0);
  const perSecond = rate(service.accepted_total, before?.accepted_total, seconds);
  const failing = rate(failuresOf(service.backends), before && failuresOf(before.backends), seconds);
  const p90 = service.backends.map((one) => one.response_ms.p90).filter((ms) => ms !== null);
  const flows = service.backends.reduce((sum, one) => sum + one.flows, 0);

  put(element, "h2", service.name);
  put(element, ".listen", service.listen);
  put(element, ".policy", service.weights === "agent" ? `${service.policy}, agent's weights` : service.policy);
  const chip = element.querySelector(".agent");
  chip.hidden = service.weights === "static" && !service.agent.up;
  put(element, ".agent", ...agentText(service.agent));
  put(element, ".rate", amount(perSecond));
  put(element, "dd.flows", amount(flows));
  put(element, ".response", p90.length ? duration(Math.max(...p90)) : "–");
  put(element, ".failures", amount(failing), failing > 0 ? "bad" : undefined);

  const trend = (element.trend ??= []);
  trend.push(perSecond);
  if (trend.length > TREND) trend.shift();
  const top = Math.max(...trend, 1);
  const points = trend.map((value, at) => `${TREND - trend.length + at},${23 - (22 * value) / top}`);
  element.querySelector("polyline").setAttribute("points", points.join(" "));

  const old = new Map(serviceOf(past[0], service.name)?.backends.map((one) => [one.name, one]));
  const shares = service.backends.map((one) => rate(one.flows_total, old.get(one.name)?.flows_total, 1));
  const all = shares.reduce((sum, one) => sum + one, 0);
  const most = (key) => Math.max(...service.backends.map((one) => one[key]));
  const body = element.querySelector("tbody");
  elements(body, rows, service.backends, "backend").forEach((row, at) => {
    const one = service.backends[at];
    put(row, ".name", one.name);
    put(row, ".address", one.address);
    put(row, ".state", one.state.replace("_", " "), STATES[one.state] ?? "bad");
    bar(row, ".flows", one.flows, most("flows"), amount(one.flows));
    bar(row, ".share", shares[at], Math.max(...shares), all > 0 ? `${Math.round((100 * shares[at]) / all)} %` : "–");
    bar(row, ".weight", one.weight, most("weight"), one.weight.toPrecision(3));
    put(row, ".mean", duration(one.response_ms.mean));
    put(row, ".p90", duration(one.response_ms.p90));
    put(row, ".failed", amount(one.failures_total), one.failures_total > 0 ? "bad" : undefined);
  });
}

function drawEvents(events) {
  for (const one of events) {
    const item = document.createElement("li");
    const time = document.createElement("time");
    const at = new Date(one.at_s * 1000);
    time.dateTime = at.toISOString();
    time.textContent = at.toLocaleTimeString("en-GB");
    item.append(time, one.text);
    $("events").prepend(item);
  }
  while ($("events").childElementCount > EVENTS) $("events").lastElementChild.remove();
  $("quiet").hidden = $("events").childElementCount > 0;
}

function draw(state) {
  const short = state.workers < state.workers_configured;
  const restarts = state.restarts_total ? `, restarts: ${state.restarts_total}` : "";
  put(document, "#summary", `${state.workers} of ${state.workers_configured} workers${restarts}`, short ? "bad" : undefined);
  elements($("services"), drawn, state.services, "service").forEach((element, at) => {
    drawService(element, state.services[at], state);
  });
  drawEvents(state.events);
  past.push(state);
  if (past.length > SHARE) past.shift();
}

const stream = new EventSource("stream");
// After a break the daemon tells all its events again.
stream.onopen = () => $("events").replaceChildren();
stream.onmessage = (message) => draw(JSON.parse(message.data));
stream.onerror = () => put(document, "#summary", "the daemon does not answer; trying again", "bad");
