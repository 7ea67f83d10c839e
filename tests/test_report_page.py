"""The report's page in a browser: Debian's Chromium, headless. It renders, says nothing on its console, fits a phone,
prints, and is dark where the reader wants it dark; and its pictures show what they should.

A script that the test puts behind the page measures it there and leaves what it found in the document's text.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import odl
from test_sweep import result_of, row

from odl.sweep.page import page


def found_browser() -> str:
    """A Chromium that starts: elsewhere than on Debian the name may be that of a stub."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path and subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False).returncode == 0:
            return path
    return ""


BROWSER = found_browser()
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium is installed: apt-get install chromium")

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip

# What a person would look at: boxes that are drawn, with which colours, and whether anything sticks out of the page.
MEASURE = """
<script>
const box = e => { const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height].map(Math.round); };
const paint = e => getComputedStyle(e);
document.querySelectorAll("rect")[3]?.dispatchEvent(new Event("click"));
const found = {
  width: innerWidth, page: document.documentElement.scrollWidth, paper: paint(document.body).backgroundColor,
  ink: paint(document.body).color, verdict: document.querySelector(".verdict").textContent,
  charts: [...document.querySelectorAll("svg[role=img]")].map(e => ({
    title: e.querySelector("title").textContent, box: box(e),
    lines: [...e.querySelectorAll("path")].map(p => (
      {style: p.className.baseVal, length: p.getTotalLength(), stroke: paint(p).stroke})),
    rects: [...e.querySelectorAll("rect")].map(r => ({style: r.className.baseVal, fill: paint(r).fill, box: box(r)})),
    outside: [...e.querySelectorAll("text, rect, circle")].filter(t => {
      const a = t.getBoundingClientRect(), b = e.getBoundingClientRect();
      return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
    }).map(t => t.textContent),
  })),
  cells: [...document.querySelectorAll(".confusion td.at")].map(e => ({
    text: e.textContent, shade: getComputedStyle(e, "::before").backgroundColor,
    opacity: +getComputedStyle(e, "::before").opacity, box: box(e)})),
  bars: [...document.querySelectorAll(".bar")].map(e => [...e.children].reduce((sum, i) => sum + box(i)[2], 0)),
  told: [...document.querySelectorAll("output")].map(e => e.textContent),
};
const told = document.createElement("pre");
told.id = "found";
told.textContent = JSON.stringify(found);
document.body.append(told);
</script>
"""


@pytest.fixture(scope="module")
def html(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a run on the cluster, played by the host, and with what MEASURE looks at behind it."""
    folder = tmp_path_factory.mktemp("report")
    run = ["-t", "pulp-open", "--on", "host", "--data", data, "--steps", 30]
    assert odl("run", model, *run, "-o", folder / "run").exit_code == 0
    assert odl("report", folder / "run", "--test", data, "-o", folder / "report.html").exit_code == 0
    text = (folder / "report.html").read_text()
    (folder / "measured.html").write_text(text.replace("</body>", f"{MEASURE}</body>"))
    return folder / "measured.html"


def look(html: Path, profile: Path, *, width: int = 1100, flags: tuple[str, ...] = ()) -> tuple[Any, str]:
    """What MEASURE found, and what the console said."""
    assert BROWSER
    command = [BROWSER, *QUIET, f"--user-data-dir={profile}", f"--window-size={width},900", *flags]
    logged = ["--enable-logging=stderr", "--v=0", "--dump-dom", html.as_uri()]
    done = subprocess.run([*command, *logged], capture_output=True, text=True, timeout=120, check=True)
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    for name, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        found = found.replace(name, sign)
    return json.loads(found), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_it_renders_and_its_console_is_silent(html: Path, tmp_path: Path) -> None:
    found, console = look(html, tmp_path)
    assert console == ""
    assert found["verdict"] == "✓ same bits as NumPy"
    assert found["page"] <= found["width"]
    titles = [chart["title"] for chart in found["charts"]]
    assert titles[:2] == ["Loss of each step", "arena while train_step runs"]
    assert titles[-2].startswith("Tiles of ")
    assert titles[-1].startswith("L1 in the calls of ")


def test_a_console_that_is_not_silent_is_seen(html: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(html.read_text().replace("</body>", "<script>nothing()</script></body>"))
    assert "nothing is not defined" in look(broken, tmp_path / "profile")[1]
    foreign = '<img src="https://example.org/a.png"></body>'
    broken.write_text(html.read_text().replace("</body>", foreign))
    assert "Content Security Policy" in look(broken, tmp_path / "profile")[1]


def test_pictures_are_drawn(html: Path, tmp_path: Path) -> None:
    found, _ = look(html, tmp_path)
    loss, memory, *tiles = found["charts"]
    drawn = {line["style"]: line for line in loss["lines"]}
    assert drawn["run0 mean"]["length"] > 500
    assert drawn["run0 mean"]["length"] == pytest.approx(drawn["reference mean"]["length"], rel=1e-3)
    assert drawn["run0 mean"]["stroke"] != drawn["reference mean"]["stroke"]
    assert len(tiles) == 2
    for chart in (memory, *tiles):
        x, y, width, height = chart["box"]
        assert len(chart["rects"]) > 5
        assert len({rect["fill"] for rect in chart["rects"]}) > 1
        assert all(r["box"][0] >= x and r["box"][0] + r["box"][2] <= x + width + 1 for r in chart["rects"])
        assert all(r["box"][1] >= y and r["box"][1] + r["box"][3] <= y + height + 1 for r in chart["rects"])
    assert all(chart["outside"] == [] for chart in found["charts"])
    assert max(found["bars"]) > 100
    assert any("bytes at" in text for text in found["told"])


def test_it_fits_a_phone(html: Path, tmp_path: Path) -> None:
    found, console = look(html, tmp_path, width=500)  # the least that headless Chromium makes a window
    assert console == ""
    assert found["width"] <= 500
    assert found["page"] <= found["width"]
    assert all(chart["box"][2] >= 600 for chart in found["charts"])  # they scroll, and stay readable


def test_it_is_dark_or_light_as_the_reader_wants(html: Path, tmp_path: Path) -> None:
    light, _ = look(html, tmp_path, flags=("--blink-settings=preferredColorScheme=1",))
    dark, _ = look(html, tmp_path, flags=("--blink-settings=preferredColorScheme=0",))
    assert _brightness(light["paper"]) > 200 > 100 > _brightness(light["ink"])
    assert _brightness(dark["paper"]) < 60 < 180 < _brightness(dark["ink"])
    fills = [{rect["fill"] for chart in found["charts"] for rect in chart["rects"]} for found in (light, dark)]
    assert fills[0] & fills[1] <= {"rgba(0, 0, 0, 0)"}


@pytest.mark.parametrize("scheme", ["0", "1"])
def test_a_matrix_is_shaded_and_its_numbers_can_be_read(scheme: str, html: Path, tmp_path: Path) -> None:
    """By the contrast that WCAG asks of text, dark and light: against the shade as it lies on the paper."""
    found, _ = look(html, tmp_path, flags=(f"--blink-settings=preferredColorScheme={scheme}",))
    assert sum(int(cell["text"]) for cell in found["cells"]) == 24  # of twelve samples, before and after
    opacities = {cell["opacity"] for cell in found["cells"]}
    assert len(opacities) > 1
    assert min(opacities) > 0.05
    paper, ink = _colour(found["paper"]), _colour(found["ink"])
    for cell in found["cells"]:
        shade = [
            cell["opacity"] * over + (1 - cell["opacity"]) * under
            for over, under in zip(_colour(cell["shade"]), paper, strict=True)
        ]
        light, dark = sorted((_luminance(shade), _luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, cell


def _colour(text: str) -> list[float]:
    return [float(part) for part in re.findall(r"[\d.]+", text)[:3]]


def _luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _brightness(colour: str) -> float:
    red, green, blue = map(float, re.findall(r"[\d.]+", colour)[:3])
    return (red + green + blue) / 3


NUMBERS = """
<script>
const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
const told = document.createElement("pre");
told.id = "found";
told.textContent = JSON.stringify({
  width: innerWidth, page: document.documentElement.scrollWidth,
  charts: [...document.querySelectorAll("svg[role=img]")].map(e => ({
    frame: box(e), dots: [...e.querySelectorAll("circle")].map(box),
    labels: [...e.querySelectorAll("text.label")].map(t => ({text: t.textContent, box: box(t)}))}))});
document.body.append(told);
</script>
"""


@pytest.mark.parametrize("width", [500, 1100])
def test_numbers_of_a_sweep_hide_nothing(width: int, tmp_path: Path) -> None:
    """In the browser's own font. A box of text has air around its digits, above and below."""
    rng = np.random.default_rng(1)
    good, ram, cycles = rng.random(60).round(2), rng.integers(2, 14, 60).tolist(), rng.integers(99, size=60).tolist()
    rows = [row(f"p{at}", float(good[at]), 50_000 * ram[at], cycles=cycles[at]) for at in range(60)]
    html = tmp_path / "sweep.html"
    html.write_text(page(result_of(rows)).replace("</body>", f"{NUMBERS}</body>"))
    found, console = look(html, tmp_path / "profile", width=width)
    assert console == ""
    assert found["page"] <= found["width"]
    for chart in found["charts"][:2]:
        assert len(chart["labels"]) > 25
        texts = [_without_air(label["box"]) for label in chart["labels"]]
        for at, box in enumerate(texts):
            assert not any(_meet(box, other) for other in texts[:at])
            assert not any(_meet(box, dot) for dot in chart["dots"]), chart["labels"][at]
            assert _meet(box, chart["frame"])


def _without_air(box: list[float]) -> list[float]:
    air = 0.2 * (box[3] - box[1])
    return [box[0], box[1] + air, box[2], box[3] - air]


def _meet(a: list[float], b: list[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_it_prints(html: Path, tmp_path: Path) -> None:
    """As A4 with all sections: some pages, not one, and not dozens."""
    assert BROWSER
    pdf = tmp_path / "report.pdf"
    command = [BROWSER, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={pdf}"]
    original = html.with_name("report.html")
    subprocess.run([*command, original.as_uri()], capture_output=True, timeout=120, check=True)
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert 2 <= pages <= 8
