// Keeps the page up to date: asks once a second which of its parts are other ones by now, and brings those into line.
// A node that stays is never replaced, so that what is opened, marked or scrolled stays as it is.
"use strict";

const SECONDS = 1, SECONDS_HIDDEN = 10, PATIENCE = 15;
const lost = document.getElementById("connection");
let timer;

async function look() {
  clearTimeout(timer);
  try {
    const place = new URL("live" + location.search, location.href);
    const parts = [...document.querySelectorAll("[data-tag]")];
    place.searchParams.set("seen", parts.map((part) => part.dataset.tag).join(","));
    const answer = await fetch(place, { cache: "no-store", signal: AbortSignal.timeout(1000 * PATIENCE) });
    if (!answer.ok) throw new Error(answer.statusText);
    const { title, changed } = await answer.json();
    document.title = title;
    for (const [name, { tag, html }] of Object.entries(changed)) renew(document.getElementById(name), tag, html);
    tell(false);
  } catch {
    tell(true);
  }
  clearTimeout(timer);
  timer = setTimeout(look, 1000 * (document.hidden ? SECONDS_HIDDEN : SECONDS));
}

function tell(isLost) {
  lost.hidden = !isLost;
  document.body.classList.toggle("lost", isLost);
}

function renew(part, tag, html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  become(part, fresh.content);
  part.dataset.tag = tag;
}

// Gives an old node the children of a fresh one.
function become(old, fresh) {
  const before = [...old.childNodes], after = [...fresh.childNodes];
  before.slice(after.length).forEach((node) => node.remove());
  after.forEach((node, place) => {
    if (place < before.length) match(before[place], node);
    else old.append(node);
  });
}

function match(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
    old.replaceWith(fresh);
  } else if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else {
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    become(old, fresh);
  }
}

document.addEventListener("visibilitychange", look);
look();
