// Before the first paint: the colours that were chosen last time. Nothing chosen: as the system.
{
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* storage is off */ }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
}
