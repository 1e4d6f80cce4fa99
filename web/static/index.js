// The start page: everything it shows comes from the public addresses that it lists.
"use strict";

const byId = (id) => document.getElementById(id);

// Text only, never markup: what orders hold was written by others.
function cell(text, className) {
  const td = document.createElement("td");
  td.textContent = text;
  if (className) td.className = className;
  return td;
}

function row(...cells) {
  const tr = document.createElement("tr");
  tr.append(...cells);
  return tr;
}

async function show(response) {
  const answer = byId("answer");
  answer.hidden = false;
  answer.textContent = `${response.status} ${response.statusText}\n${JSON.stringify(await response.json(), null, 2)}`;
}

async function newest() {
  const response = await fetch("/api/v1/orders?limit=8");
  const body = byId("newest").tBodies[0];
  if (!response.ok) {
    const problem = await response.json();
    body.replaceChildren(row(cell(`${problem.title}: ${problem.detail}`)));
    return;
  }
  const { orders } = await response.json();
  body.replaceChildren(...orders.map((order) => {
    const link = document.createElement("a");
    link.href = `/api/v1/orders/${encodeURIComponent(order.order_uid)}`;
    link.textContent = order.order_uid;
    const first = document.createElement("td");
    first.append(link);
    return row(first, cell(order.customer_id), cell(order.status), cell(order.version), cell(order.placed_at));
  }));
  if (!orders.length) body.replaceChildren(row(cell("No orders yet.")));
}

async function health() {
  const { checks } = await (await fetch("/health")).json();
  byId("checks").tBodies[0].replaceChildren(
    ...Object.entries(checks).map(([name, check]) => row(cell(name, check.ok ? "ok" : "bad"), cell(check.detail))),
  );
}

byId("look").addEventListener("submit", async (event) => {
  event.preventDefault();
  const uid = new FormData(event.target).get("order_uid").trim();
  await show(await fetch(`/api/v1/orders/${encodeURIComponent(uid)}`));
});

byId("place").addEventListener("click", async () => {
  await show(await fetch("/api/orders/test", { method: "POST" }));
  await newest();
});

newest();
health();
setInterval(health, 5000);
