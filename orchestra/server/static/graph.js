// Draws the graph of a run: places by dagre, shapes as SVG. What it reads is text, and is only ever set as text.
(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const box = document.getElementById("graph");
  if (!box) return;
  const order = ["failed", "crashed", "running", "paused", "scheduled", "pending", "cancelling", "cancelled", "completed"];
  const make = (name, attributes, parent) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent?.append(element);
    return element;
  };
  const stateOf = (node) => order.find((name) => node.states[name.toUpperCase()]) ?? "pending";
  const labelOf = (node) => {
    const name = node.name.length > 28 ? `${node.name.slice(0, 27)}…` : node.name;
    return node.count > 1 ? `${name} ×${node.count.toLocaleString("en")}` : name;
  };
  let shape = "";

  function draw(data) {
    const known = new Map(data.nodes.map((node) => [node.key, node]));
    const next = JSON.stringify(data.nodes.map((node) => [node.key, node.upstream, labelOf(node)]));
    if (next === shape) return colour(data.nodes);
    shape = next;
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: "LR", nodesep: 14, ranksep: 42, marginx: 6, marginy: 6 });
    graph.setDefaultEdgeLabel(() => ({}));
    for (const node of data.nodes) graph.setNode(node.key, { width: labelOf(node).length * 7.2 + 22, height: 26 });
    for (const node of data.nodes) for (const key of node.upstream) if (known.has(key)) graph.setEdge(key, node.key);
    dagre.layout(graph);
    const { width, height } = graph.graph();
    const svg = make("svg", { class: "graph", viewBox: `0 0 ${Math.ceil(width)} ${Math.ceil(height)}`, width: Math.ceil(width), height: Math.ceil(height) });
    for (const edge of graph.edges()) {
      const points = graph.edge(edge).points.map((point) => `${point.x.toFixed(1)},${point.y.toFixed(1)}`);
      make("polyline", { class: known.get(edge.w).ordered ? "edge ordered" : "edge", points: points.join(" ") }, svg);
    }
    for (const node of data.nodes) {
      const place = graph.node(node.key);
      const link = make("a", { href: node.href, class: `node k-${stateOf(node)}`, "data-key": node.key }, svg);
      make("title", {}, link).textContent = `${node.name}: ${Object.entries(node.states).map(([name, count]) => `${count} ${name.toLowerCase()}`).join(", ")}`;
      make("rect", { x: place.x - place.width / 2, y: place.y - 13, width: place.width, height: 26, rx: 5 }, link);
      make("text", { x: place.x, y: place.y + 4 }, link).textContent = labelOf(node);
    }
    box.replaceChildren(svg);
    // Small graphs keep the size of their text; wide ones get smaller, to a point, and then scroll.
    svg.style.width = `${Math.ceil(Math.max(Math.min(width, box.clientWidth), width * 0.62))}px`;
  }
  function colour(nodes) {
    const links = new Map([...box.querySelectorAll("a[data-key]")].map((link) => [link.dataset.key, link]));
    for (const node of nodes) links.get(node.key)?.setAttribute("class", `node k-${stateOf(node)}`);
  }

  async function show() {
    const answer = await fetch(box.dataset.graph);
    if (!answer.ok) return;
    const data = await answer.json();
    const note = document.getElementById("graph-note");
    if (!data.nodes.length) { box.textContent = ""; note.textContent = "No tasks yet."; return; }
    note.textContent = data.grouped ? `${data.total.toLocaleString("en")} steps, those of one task together` : "";
    draw(data);
  }
  let timer = null;
  function soon() {
    if (timer === null) timer = setTimeout(() => { timer = null; show(); }, 150);
  }
  document.body.addEventListener("steps", soon);
  show();
})();
