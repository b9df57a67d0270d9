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
