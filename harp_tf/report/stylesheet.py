"""How the pages look: light and dark, wide and narrow."""

from harp_tf.report import theme


def stylesheet() -> str:
    """The CSS of a page, with the colours of `theme` as variables."""
    light = "".join(f"--{role}: {colour}; " for role, colour in theme.LIGHT.items())
    dark = "".join(f"--{role}: {colour}; " for role, colour in theme.DARK.items())
    return f":root {{ {light}}} @media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}{_RULES}"


_RULES = """
:root { --page: #f5f7f9; --card: #fff; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --page: #101317; --card: #191d22; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
.kicker { margin: 0; color: var(--muted); }
h1 { margin: 8px 0 24px; font-size: clamp(1.15rem, 0.95rem + 1.1vw, 1.6rem); line-height: 1.35;
  font-weight: 650; text-wrap: pretty; }
h3 { margin: 20px 0 8px; font-size: 1rem; }
a { color: var(--blue); }
h2 { margin: 40px 0 12px; font-size: 1.15rem; }
p { max-width: 75ch; color: var(--muted); text-wrap: pretty; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0;
  padding: 0; list-style: none; }
.cards li, figure, .scroll, details { background: var(--card); border: 1px solid var(--grid);
  border-radius: 10px; }
.cards li { display: flex; flex-direction: column; padding: 14px 16px; }
.cards.wide { grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.cards.wide span { font-weight: 600; color: var(--ink); }
.cards.wide p { margin: 6px 0 0; }
.cards strong { font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.cards span, .cards em { color: var(--muted); font-size: 0.875rem; font-style: normal; }
header .warnings { margin-top: 16px; }
.warnings { margin: 0; padding: 0; list-style: none; display: grid; gap: 10px; }
.warnings li { border-left: 3px solid var(--orange); padding: 2px 0 2px 12px; max-width: 90ch; color: var(--muted); }
.warnings strong { color: var(--ink); }
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 16px;
  align-items: start; margin-top: 16px; }
.pair > * { min-width: 0; }
.tables { display: flex; flex-wrap: wrap; gap: 16px; align-items: start; margin-top: 16px; }
.tables > * { flex: 1 1 auto; min-width: 0; max-width: 100%; }
figure { margin: 0; padding: 14px 14px 10px; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
figure.wide img { max-width: 900px; margin: 0 auto; background: #fff; border-radius: 6px; }
figure.wide .scroll { border: 0; }
figcaption { margin-top: 8px; color: var(--muted); font-size: 0.875rem; }
.scroll { overflow-x: auto; background:  /* a shadow where there is more to scroll to */
  linear-gradient(90deg, var(--card) 60%, transparent) left / 40px 100% no-repeat local,
  linear-gradient(270deg, var(--card) 60%, transparent) right / 40px 100% no-repeat local,
  linear-gradient(90deg, var(--soft), transparent) left / 12px 100% no-repeat,
  linear-gradient(270deg, var(--soft), transparent) right / 12px 100% no-repeat, var(--card); }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 14px; text-align: right; white-space: nowrap; }
thead th { color: var(--muted); font-size: 0.875rem; font-weight: 500; }
tbody tr, .pairs tr + tr { border-top: 1px solid var(--grid); }
th:first-child { text-align: left; }
.scroll + .scroll, .warnings + .scroll { margin-top: 16px; }
.tables > .scroll + .scroll { margin-top: 0; }
.tables th, .tables td { padding: 8px 9px; }
tbody th { font-weight: 600; }
.files td:last-child, .files th:last-child {
  text-align: left; width: 100%; white-space: normal; overflow-wrap: anywhere;
}
details { margin-top: 10px; }
details .scroll { border-width: 1px 0 0; border-radius: 0 0 10px 10px; }
summary { padding: 10px 14px; cursor: pointer; font-weight: 600; }
.pairs td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.pairs th { width: 1%; padding-right: 24px; font-weight: 500; }
@media (max-width: 520px) { main { padding: 20px 12px 48px; } figure { padding: 8px 8px 10px; }
  table { font-size: 0.8125rem; } th, td, .tables th, .tables td { padding: 8px 5px; }
  th:first-child { padding-left: 10px; } td:last-child, th:last-child { padding-right: 10px; }
  th { white-space: normal; } .pairs th, .pairs td { display: block; width: auto; padding: 8px 10px; }
  .pairs td { padding-top: 0; } figure.wide img { width: 760px; max-width: none; } }
"""
