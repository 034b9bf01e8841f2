"""JupyterLab and the report in a real Chromium. What is seen is kept as pictures in the folder that IA_SCREENSHOTS
names, to be looked at."""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest
from playwright import sync_api

from ia_lib.paths import root
from ia_lib.report.page import find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is found (install chromium)")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        chromium = started.chromium.launch(executable_path=find_chromium(), args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def lab(finished, tmp_path_factory):
    """A JupyterLab with a token, over copies of the notebooks whose parameters name the finished table."""
    folder = tmp_path_factory.mktemp("lab")
    for path in (root() / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        for name, value in (("table", finished.path), ("outputs_dir", finished.outputs)):
            cell.source = re.sub(rf'^{name} = "[^"]*"', f"{name} = {json.dumps(str(value))}", cell.source, flags=re.M)
        nbformat.write(notebook, folder / path.name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(folder / ".config"), "HF_HUB_OFFLINE": "1"}
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(240):
            try:
                urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", token
    finally:
        server.terminate()
        server.wait(20)


def keep(page, name: str) -> None:
    folder = os.environ.get("IA_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(1500)  # what has come into sight is drawn
        page.screenshot(path=Path(folder) / f"{name}.png")


def run_all(browser, lab, name: str):
    """Open a notebook, run all its cells and wait until they have."""
    address, token = lab
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(180_000)  # other tests may be at work beside it
    page.goto(f"{address}/lab/tree/{name}.ipynb?token={token}&reset", timeout=300_000)
    page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=300_000)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=300_000)
    indicator = page.locator(".jp-Notebook-ExecutionIndicator").first
    for _ in range(20):
        # as long as the notebook is not yet the one that the menu acts on, the click does nothing
        page.locator(".jp-NotebookPanel .jp-CodeCell").first.click()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        with contextlib.suppress(sync_api.TimeoutError):
            page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=busy]", timeout=20_000)
            break
    # cells out of sight are not drawn, so the kernel is asked: it is done when it has been idle for a while
    quiet = 0
    for _ in range(2400):
        quiet = quiet + 1 if indicator.get_attribute("data-status") == "idle" else 0
        if quiet > 12:
            break
        page.wait_for_timeout(250)
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr'] pre").filter(
        has_text="Traceback"
    ).count() == 0  # fmt: skip
    return page


def seen(page, selector: str):
    """Scroll through the notebook until something is there, since cells are drawn when they come into sight."""
    notebook = page.locator(".jp-WindowedPanel-outer").first
    for _ in range(1500):
        found = page.locator(selector)
        if found.count():
            found.first.scroll_into_view_if_needed()
            return found.first
        # on to the next screen, and behind the last to the first
        notebook.evaluate(
            "e => e.scrollTo(0, e.scrollTop + e.clientHeight + 5 > e.scrollHeight ? 0 : e.scrollTop + 500)"
        )
        page.wait_for_timeout(200)
    raise AssertionError(f"{selector} is nowhere in the notebook")


def panel_of(page, method: str):
    """The cell of notebook 0 that shows a panel, scrolled to."""
    seen(page, f".jp-CodeCell:has-text('chosen.{method}') .ia")
    return page.locator(f".jp-CodeCell:has-text('chosen.{method}')").first


def test_notebook_0_and_its_widgets(browser, lab):
    page = run_all(browser, lab, "0_explore")
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    cell = panel_of(page, "instructions")
    keep(page, "notebook-0-instruction")
    before = cell.locator(".ia").last.inner_text()
    handle = cell.locator(".widget-hslider:has-text('template') .noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    page.wait_for_function(
        "([e, text]) => e.innerText !== text", arg=[cell.locator(".ia").last.element_handle(), before]
    )
    keep(page, "notebook-0-moved")
    # what takes long waits for its button, and says so
    cell = panel_of(page, "label_scores")
    assert "Press “Score”" in cell.inner_text()
    text, button = cell.locator("textarea").first, cell.locator("button")
    for typed, said in (
        ("makanan \\ud800", "has U+D800 as its character 9"),
        ("' + 'a'.repeat(100000) + '", "has 100,000 characters; allowed: 10,000"),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
    ):
        text.evaluate(f"e => {{e.value = '{typed}'; e.dispatchEvent(new Event('input', {{bubbles: true}}))}}")
        text.evaluate("e => e.dispatchEvent(new Event('change', {bubbles: true}))")
        cell.get_by_text("This has changed").or_(cell.get_by_text("Press “Score”")).wait_for()
        # ten presses are one
        button.evaluate("e => {for (let i = 0; i < 10; i++) e.click()}")
        cell.locator(".ia").last.get_by_text(said).wait_for()
    assert cell.locator(".best").count() >= 6
    keep(page, "notebook-0-labels")
    cell = panel_of(page, "predictions")
    cell.locator(".widget-dropdown:has-text('show') select").select_option("every answer")
    cell.get_by_text("match; 1 to").wait_for()
    cell.locator("select").first.select_option("base")
    cell.get_by_text("Both runs are base; choose two.").wait_for()
    cell.locator("select").first.select_option("tlm")
    word = cell.locator("input[type=text]")
    word.fill("[no such word")
    word.press("Enter")
    cell.get_by_text(re.compile("None of the .* answers fits")).wait_for()
    word.fill("")
    word.press("Enter")
    cell.get_by_text("match; 1 to").wait_for()
    keep(page, "notebook-0-compared")
    # on a narrow screen nothing but tables and boxes of tokens goes beyond its cell
    page.set_viewport_size({"width": 520, "height": 900})
    page.wait_for_function(
        "[...document.querySelectorAll('.jp-OutputArea-output')].every(e => e.scrollWidth <= e.clientWidth)"
    )
    keep(page, "notebook-0-narrow")
    assert not asked, "a text is no code"
    # every control that is typed into or chosen from has a label
    bare = "[...document.querySelectorAll('.jp-OutputArea-output :is(select, textarea, input)')]"
    assert page.evaluate(f"{bare}.filter(e => !e.labels?.length).length") == 0
    page.close()


@pytest.mark.parametrize("name", ["1_data", "2_tune"])
def test_notebooks_1_and_2_and_their_pictures(browser, lab, name):
    page = run_all(browser, lab, name)
    picture = seen(page, ".jp-OutputArea img[src^='data:image/svg']")
    # drawn by the browser, and not the sign of a broken picture
    assert picture.evaluate("image => image.complete && image.naturalWidth") == 880
    assert picture.get_attribute("alt")
    keep(page, f"notebook-{name[0]}")
    page.close()


def test_notebook_4_and_its_figures(browser, lab):
    page = run_all(browser, lab, "4_figures")
    figure = seen(page, ".js-plotly-plot .main-svg")
    assert figure.bounding_box()["width"] > 400
    keep(page, "notebook-4-groups")
    seen(page, ".js-plotly-plot .heatmaplayer image, .js-plotly-plot .heatmaplayer .hm")
    keep(page, "notebook-4-languages")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_in_a_browser(browser, finished, tmp_path, scheme):
    # moved elsewhere, as a reader gets it who is sent the folder
    shutil.copytree(finished.folder / "report", tmp_path / "report")
    page = browser.new_page(viewport={"width": 1300, "height": 1000}, color_scheme=scheme)
    troubles, asked = [], []
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report" / "index.html").as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.locator(".js-plotly-plot").count() == 3
    assert not troubles
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    assert page.locator("h1").count() == 1
    # every link leads somewhere in the folder, and every table cell has a head
    for link in page.locator("a[href]:not(.js-plotly-plot a)").all():
        target = link.get_attribute("href")
        if target.startswith("#"):
            assert page.locator(target).count() == 1, target
        elif not target.startswith(".."):
            assert (tmp_path / "report" / target).is_file(), target
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("table:not(:has(thead))").count() == 0
    # the page itself does not scroll sideways; wide tables do so by themselves
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    keep(page, f"report-{scheme}")
    for summary in page.locator("summary").all():
        summary.focus()
        summary.press("Enter")
    folder = os.environ.get("IA_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"report-{scheme}-all.png", full_page=True)
    page.set_viewport_size({"width": 420, "height": 900})
    page.wait_for_function("document.documentElement.scrollWidth <= innerWidth", timeout=10_000)
    keep(page, f"report-{scheme}-phone")
    page.close()
