"use strict";
// Adds new messages on top. The entries come escaped from the server, under a policy that runs no inline script.
const list = document.getElementById("list");
const news = document.getElementById("news");
const PAUSE_MS = 1000;
const KEPT = 1000;

function newest() {
  const first = list.querySelector("article");
  return first ? Number(first.dataset.number) : 0;
}

async function poll() {
  const query = new URLSearchParams(location.search);
  query.set("after", String(newest()));
  try {
    const answer = await fetch(`/entries?${query}`, { cache: "no-store" });
    const html = answer.ok ? await answer.text() : "";
    if (html) {
      const holder = document.createElement("template");
      holder.innerHTML = html;
      const count = holder.content.childElementCount;
      for (const article of holder.content.children) article.classList.add("new");
      list.prepend(holder.content);
      while (list.childElementCount > KEPT) list.lastElementChild.remove();
      news.textContent = count === 1 ? "1 new message" : `${count} new messages`;
    } else if (news.textContent.startsWith("The inbox")) {
      news.textContent = "";
    }
  } catch {
    news.textContent = "The inbox does not answer; trying again.";
  }
  setTimeout(poll, PAUSE_MS);
}

setTimeout(poll, PAUSE_MS);
