"""The report in a real browser: offline, every picture decodes, figures are those of the files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from seven import make_ensemble

from ensemble.manifest import PAGE, read_ensemble
from infra.storage import open_place

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
]
PROBE = """<script>
window.addEventListener("load", () => {
  const bad = [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length;
  const wide = document.documentElement.scrollWidth > window.innerWidth + 1;
  const loaded = performance.getEntriesByType("resource")
    .filter(r => !r.name.startsWith("data:")).map(r => r.name);
  document.body.dataset.probe = [document.images.length, bad, wide, loaded.length].join(",");
});
</script>"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of two tiny members."""
    return make_ensemble(tmp_path_factory.mktemp("page"), members=2)


def _browse(tmp_path: Path, page: Path, *arguments: str) -> str:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=4000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", *arguments, page.as_uri()]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env={**os.environ, "LANG": "C.UTF-8"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("width", [500, 1200])
def test_pictures_decode_and_nothing_is_loaded(made: Path, tmp_path: Path, width: int) -> None:
    """On a narrow and a wide screen: ten pictures, none broken, no sideways scrolling."""
    html = (made / PAGE).read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', html)
    assert policy is not None
    probed = tmp_path / "probed.html"  # the policy forbids every script, so also the probe
    probed.write_text(html.replace(policy[0], "").replace("</body>", PROBE + "</body>"))
    dom = _browse(tmp_path, probed, f"--window-size={width},1000", "--dump-dom")
    probe = re.search(r'data-probe="([^"]*)"', dom)
    assert probe is not None and probe[1] == "10,0,false,0"


def test_the_policy_forbids_scripts(made: Path, tmp_path: Path) -> None:
    """The same probe under the page's own policy never runs."""
    probed = tmp_path / "probed.html"
    probed.write_text((made / PAGE).read_text().replace("</body>", PROBE + "</body>"))
    dom = _browse(tmp_path, probed, "--dump-dom")
    assert "<h2>Errors</h2>" in dom
    assert not re.search(r"<body[^>]*data-probe", dom)


def test_the_table_is_that_of_the_files(made: Path, tmp_path: Path) -> None:
    """As the browser has it, not as the template wrote it."""
    ensemble, _ = read_ensemble(open_place(made))
    dom = _browse(tmp_path, made / PAGE, "--dump-dom")
    shown = dict(re.findall(r'data-figure="([^"]+)">([^<]+)<', dom))
    for part in ensemble.members:
        assert shown[f"member-{part.number}-top1"] == f"{100 * part.score.top1_error:.2f} %"
    assert shown["ensemble-top1"] == f"{100 * ensemble.score.top1_error:.2f} %"
    assert shown["ensemble-top5"] == f"{100 * ensemble.score.top5_error:.2f} %"


@pytest.mark.parametrize(("scheme", "light"), [("1", True), ("0", False)])
def test_it_follows_light_and_dark(made: Path, tmp_path: Path, scheme: str, light: bool) -> None:
    """The screenshot's corner is paper in one and night in the other."""
    picture = tmp_path / "page.png"
    _browse(
        tmp_path,
        made / PAGE,
        f"--blink-settings=preferredColorScheme={scheme}",
        "--window-size=1100,1400",
        f"--screenshot={picture}",
    )
    with Image.open(picture) as image:
        corner = image.convert("L").getpixel((3, 3))
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50
    assert isinstance(corner, int) and (corner > 200) is light
