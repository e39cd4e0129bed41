"""The pages that evalkit writes, opened in a headless browser: no word on its console, and every picture is drawn."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
MEASURE = """<script>
const box = e => { const b = e.getBoundingClientRect(); return [b.width, b.height]; };
const drawn = s => [...s.querySelectorAll("path,rect,circle,line,polyline,text")].some(e => Math.max(...box(e)) > 0);
document.body.dataset.seen = JSON.stringify({
  svg: [...document.querySelectorAll("svg")].map(s => [...box(s), drawn(s)]),
  img: [...document.images].map(i => i.naturalWidth),
  height: document.body.scrollHeight,
});
</script>"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no headless browser on this machine")]


def opened(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after loading, and what its console said."""
    assert BROWSER is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [BROWSER, *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def seen(page: Path, profile: Path) -> dict[str, Any]:
    """Boxes of the page's pictures, measured by a script in a copy of it: the page itself allows none."""
    copy = page.with_name(f"measured_{page.name}")
    copy.write_text(POLICY.sub("", page.read_text("utf-8")).replace("</body>", MEASURE + "</body>"), "utf-8")
    found = re.search(r'data-seen="([^"]*)"', opened(copy, profile)[0])
    assert found is not None, "the page has no body to measure"
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def pages(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run's report, a comparison of two runs, the verdict on one and a plan, of a model of a few thousand weights."""
    from evalkit.cli.main import main

    folder = tmp_path_factory.mktemp("pages")
    sentence = "the cat sat on a mat and saw seven dogs run past two old red barns"
    words = sentence.split()
    lines = (" ".join(words[(i * j) % len(words)] for j in range(1, 46)) for i in range(1, 25))
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), "utf-8")
    model = [
        "--checkpoint",
        str(checkpoint),
        "--tokenizer",
        "byte",
        "--text",
        str(folder / "t.jsonl"),
        "--threads",
        "1",
    ]
    small = ["--plan", "sliding:seq_len=32,stride=16", "--limit-tokens", "1500"]
    for name, adapters in (("a", ["--adapter", "ppm"]), ("b", ["--adapter", "ppm", "--adapter", "match"])):
        assert main(["eval", *model, *small, *adapters, "--out", str(folder / name)]) == 0
    made = {name: folder / f"{name}.html" for name in ("compare", "verdict")}
    assert main(["compare", str(folder / "a"), str(folder / "b"), "--html", str(made["compare"])]) == 0
    assert main(["audit", str(folder / "a"), "--probes", "60", "--html", str(made["verdict"])]) in (0, 1)
    search = ["--budget", "3600", "--targets", "4000", "--search-seconds", "1", "--out", str(folder / "plan")]
    assert main(["plan", *model, *search]) == 0
    return {"report": folder / "a" / "report.html", "plan": folder / "plan" / "plan.html", **made}


@pytest.mark.parametrize(("name", "pictures"), [("report", 3), ("compare", 0), ("verdict", 1), ("plan", 1)])
def test_a_page_is_drawn_and_says_nothing(name: str, pictures: int, pages: dict[str, Path], tmp_path: Path) -> None:
    document, console = opened(pages[name], tmp_path / "profile")
    assert console == []
    assert "<h1" in document
    found = seen(pages[name], tmp_path / "profile")
    assert len(found["svg"]) >= pictures
    assert all(width > 1 and height > 1 and drawn for width, height, drawn in found["svg"])
    assert all(width > 0 for width in found["img"])
    assert found["height"] > 200
