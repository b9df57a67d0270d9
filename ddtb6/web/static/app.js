// SPDX-License-Identifier: GPL-2.0-or-later
// What makes pages more comfortable. Every page works without it.
"use strict";

// A button [data-copy="ID"] copies the text of the element with that id; without the script it is hidden.
for (const button of document.querySelectorAll("button[data-copy]")) {
  const source = document.getElementById(button.dataset.copy);
  if (!source) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    if (navigator.clipboard) await navigator.clipboard.writeText(source.textContent);
    else {  // The page came without TLS.
      getSelection().selectAllChildren(source);
      if (source.select) source.select();
      document.execCommand("copy");
    }
    const words = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = words; }, 1500);
  });
}

// A control [data-submit] sends its form as soon as something is chosen.
for (const control of document.querySelectorAll("[data-submit]")) {
  control.addEventListener("change", () => control.form.requestSubmit());
}

// A part [data-live="URL"] is kept up to date: events of that stream carry the new content of the elements of their name.
// What somebody is at with the keyboard stays as it is until they have moved on.
for (const place of document.querySelectorAll("[data-live]")) {
  if (!window.EventSource) break;
  const alive = document.getElementById("alive");
  const replace = (id, html) => {
    const old = document.getElementById(id);
    if (!old || old.contains(document.activeElement)) return;
    old.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
  };
  let stream = null;
  const open = () => {
    if (stream || document.hidden) return;
    stream = new EventSource(place.dataset.live);
    for (const id of ["now", "pulse", "past"]) stream.addEventListener(id, (event) => replace(id, event.data));
    stream.addEventListener("open", () => { if (alive) alive.hidden = false; });
    stream.addEventListener("error", () => { if (alive) alive.hidden = true; });
  };
  // A page that nobody looks at asks for nothing.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && stream) {
      stream.close();
      stream = null;
    }
    open();
  });
  open();
}

// A part [data-again="SECONDS"] with an id is fetched again with its page that often, while somebody looks at it.
for (const place of document.querySelectorAll("[data-again]")) {
  const again = async () => {
    if (document.hidden) return;
    const answer = await fetch(location.pathname, { cache: "no-store" }).catch(() => null);
    if (!answer || !answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById(place.id);
    if (fresh && !place.contains(document.activeElement)) place.replaceChildren(...fresh.childNodes);
  };
  setInterval(again, 1000 * place.dataset.again);
  document.addEventListener("visibilitychange", again);
}
