(() => {
  "use strict";
  const every = 3000;
  async function look() {
    let again = true;
    try {
      const answer = document.hidden ? null : await fetch(location.href, {cache: "no-cache"});
      if (answer && answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
        const open = [...document.querySelectorAll("details[open]")].map((one) => one.id);
        for (const id of open) { const one = fresh.querySelector("#" + CSS.escape(id)); if (one) one.open = true; }
        const focused = document.activeElement && document.activeElement.id;
        document.querySelector("main").replaceWith(fresh);
        if (focused) { const one = document.getElementById(focused); if (one) one.focus(); }
        again = fresh.dataset.done !== "true";
      }
    } catch (error) { again = true; }
    if (again) setTimeout(look, every);
  }
  setTimeout(look, every);
})();
