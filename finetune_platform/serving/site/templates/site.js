// Times in the viewer's zone, UTC on hover. The server sends them in UTC and may replace any part of the page.
(() => {
  const clock = { hour: "2-digit", minute: "2-digit" };
  const day = { month: "short", day: "numeric" };
  const show = (time) => {
    const at = new Date(time.dateTime);
    if (time.dataset.shown === time.dateTime || isNaN(at)) return;
    const today = at.toDateString() === new Date().toDateString();
    const format = time.dataset.as === "clock" || today ? clock : { ...day, ...clock };
    time.textContent = at.toLocaleString([], format);
    time.title = at.toISOString().slice(0, 19).replace("T", " ") + " UTC";
    time.dataset.shown = time.dateTime;
  };
  const showAll = () => document.querySelectorAll("time[datetime]").forEach(show);
  const start = () => {
    new MutationObserver(showAll).observe(document.body, { childList: true, subtree: true });
    showAll();
  };
  if (document.body) start();
  else document.addEventListener("DOMContentLoaded", start);
})();
