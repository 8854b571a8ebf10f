// Looks again while somebody looks, and draws the page anew only when it tells something else.
document.addEventListener("DOMContentLoaded", () => {
  const live = document.querySelector(".live");
  const look = async () => {
    if (document.hidden) return;
    let answer;
    try {
      answer = await fetch(location.href, { cache: "no-store" });
    } catch {
      live.hidden = false;
      return;
    }
    live.hidden = true;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = document.querySelector("main"), fresh = page.querySelector("main[data-seen]");
    // No page of ours: signed out.
    if (!fresh) location.reload();
    else if (fresh.dataset.seen !== main.dataset.seen) main.replaceWith(fresh);
  };
  setInterval(look, 1000 * document.body.dataset.refreshS);
  document.addEventListener("visibilitychange", look);
});
