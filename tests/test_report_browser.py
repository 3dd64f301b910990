"""The report in a real browser: drawn without an error or a request, its controls work, hostile text stays text.

Needs Debian's chromium (``apt-get install chromium``); it is driven through the DevTools protocol by playwright. Screenshots
are kept in build/screenshots.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

import relact
from relact import query

SCREENSHOTS = Path(__file__).parent.parent / "build" / "screenshots"
EVIL = ["<script>window.owned = 1</script>", '"><img src=x onerror="window.owned = 1">']
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser():
    """Headless chromium; a missing one is a failure, not a skip."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.fail("no chromium on this machine: run `apt-get install chromium`", pytrace=False)
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Open a file and wait until its charts are drawn; afterwards: no error, no request but the file itself."""
    pages = []

    def open_file(path, size="desktop", scheme="light"):
        width, height = SIZES[size]
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        pages.append((page, path, said, asked))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=30_000)
        return page

    yield open_file
    for page, path, said, asked in pages:
        page.close()
        assert said == [] and asked == [path.as_uri()]


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    relact.report(study, path)
    return path


def keep(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def signal(page, figure, name):
    return page.evaluate(f"views['{figure}'].signal('{name}')")


def test_everything_is_drawn(open_page, report, study):
    page = open_page(report)
    keep(page, "desktop")
    marks = {"ablation": 3 * 5, "overlap": 3 * 2, "layers": 3 * 30, "distribution": 50}
    for figure, least in marks.items():
        assert page.locator(f"#f-{figure} svg .mark-rect path").count() >= least, figure
    assert page.locator("#f-growth svg .mark-line path").count() >= 3
    cells = page.locator("#f-ablation svg .mark-text text").all_text_contents()
    assert any(cell.endswith("%") for cell in cells)
    best = query.top(study, relation="country_capital", n=1).iloc[0]
    first = page.locator("#neurons tbody tr").first.locator("td").all_inner_texts()
    assert first[1:5] == [best.site, str(best.layer), str(best.neuron), f"{best.average_precision:.4f}"]


def test_choosing_a_relation_and_a_site(open_page, report, study):
    page = open_page(report)
    before = page.locator("#f-distribution svg .mark-rect").first.inner_html()
    page.select_option("#relation", "word_first_letter")
    page.select_option("#site", "mlp.down")
    assert page.locator("#h-neurons").inner_text() == "The best neurons of word_first_letter"
    assert signal(page, "distribution", "relation") == "word_first_letter"
    assert [signal(page, figure, "site") for figure in ("distribution", "overlap", "layers")] == ["mlp.down"] * 3
    assert page.locator("#f-distribution svg .mark-rect").first.inner_html() != before
    best = query.top(study, relation="word_first_letter", n=20, sites="mlp.down")
    shown = page.locator("#neurons tbody tr td:nth-child(5)").all_inner_texts()
    assert shown == [f"{value:.4f}" for value in best.average_precision]
    assert set(page.locator("#neurons tbody tr td:nth-child(2)").all_inner_texts()) == {"mlp.down"}


def test_sorting_searching_and_opening_a_neuron_by_keyboard(open_page, report, study):
    page = open_page(report)
    page.get_by_role("button", name="layer").focus()
    page.keyboard.press("Enter")
    assert page.locator("#neurons th[aria-sort]").get_attribute("aria-sort") == "descending"
    layers = [int(text) for text in page.locator("#neurons tbody tr td:nth-child(3)").all_inner_texts()]
    assert layers == sorted(layers, reverse=True) and len(layers) == 20
    page.locator("#more").click()
    assert page.locator("#neurons tbody tr").count() == 120
    best = query.top(study, relation="country_capital", n=1).iloc[0]
    page.fill("#search", f"{best.site} {best.layer} {best.neuron}")
    assert page.locator("#neurons tbody tr").count() == 1 and page.locator("#found").inner_text() == "1 listed"
    page.locator("#neurons button.open").focus()
    page.keyboard.press("Enter")
    assert page.locator("#neurons button.open").get_attribute("aria-expanded") == "true"
    most = query.extremes(study, best.site, int(best.layer), int(best.neuron), n=4)
    detail = page.locator("#neurons .detail").inner_text()
    assert all(text.strip().splitlines()[-1] in detail for text in most.text)
    keep(page, "neuron")
    page.fill("#search", "mlp.gate 3 77777")
    assert "relact neuron STORE mlp.gate 3 77777" in page.locator("#found").inner_text()


def test_the_numbers_of_a_figure_can_be_read_and_sorted(open_page, report):
    page = open_page(report)
    details = page.locator("details.numbers[data-figure=ablation]")
    details.locator("summary").click()
    expect(details.locator("tbody tr")).to_have_count(3 * 5)
    details.get_by_role("button", name="change").click()
    values = [float(text) for text in details.locator("tbody td:nth-child(5)").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    overlap = page.locator("details.numbers[data-figure=overlap]")
    overlap.locator("summary").click()
    expect(overlap.locator("tbody tr")).to_have_count(3 * 2)
    page.select_option("#site", "mlp.up")
    expect(overlap.locator("tbody tr")).to_have_count(3 * 2)


def test_light_and_dark(open_page, report):
    page = open_page(report, scheme="dark")
    keep(page, "dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(1, 4, 9)"
    page.select_option("#relation", "adj_comparative")
    page.click("#theme")
    page.wait_for_selector("html[data-drawn=light]")
    assert page.evaluate(ground) == "rgb(244, 246, 248)"
    assert signal(page, "distribution", "relation") == "adj_comparative"  # the choice survives
    assert page.locator("#theme").inner_text() == "Dark"


def test_a_phone_needs_no_sideways_scrolling(open_page, report):
    page = open_page(report, size="phone")
    keep(page, "phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = (
        "[...document.querySelectorAll('main p, td, th, select')].map((e) => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(page.evaluate(sizes)) >= 13


@pytest.fixture(scope="module")
def hostile(tiny_folder, tmp_path_factory):
    """A sweep of a tiny model on relations, subjects and texts that are markup."""
    import pandas as pd

    rows = [
        {
            "text": f"{relation}</script><script>window.owned = 1</script> {number}", "relation": relation,
            "subject": f"<b onclick='window.owned = 1'>{number}</b>", "object": "</pre><iframe src='https://example.org'>",
            "answers": [str(number)], "template": "{}", "language": "en", "split": "identify" if number < 8 else "test",
            "shots": 0,
        }
        for relation in EVIL
        for number in range(11)
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("hostile")
    store = relact.score(relact.capture(str(tiny_folder), pd.DataFrame(rows), folder / "s.zarr"))
    for k in (4, 16, 64):
        relact.ablate(store, k=k, seeds=[0])
    relact.report(store, folder / "report.html")
    return folder / "report.html"


def test_hostile_text_stays_text(open_page, hostile):
    page = open_page(hostile)
    assert page.locator("#f-sweep svg .mark-line path").count() == 3
    assert page.locator("#relation option").all_inner_texts() == EVIL
    page.select_option("#relation", EVIL[1])
    page.locator("#neurons button.open").first.click()
    for details in page.locator("details").all():
        if "numbers" in (details.get_attribute("class") or ""):
            details.locator("summary").click()
    page.locator("#f-ablation svg .mark-text text").nth(2).hover()
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert EVIL[0] in page.locator("#vg-tooltip-element").inner_text()
    assert "<b onclick" not in page.locator("#neurons .detail").inner_html()
    assert page.evaluate("window.owned") is None
    assert page.evaluate("document.images.length + document.querySelectorAll('iframe, [onclick]').length") == 0


def test_an_ablation_can_be_chosen_from_a_sweep(open_page, hostile):
    page = open_page(hostile)
    options = page.locator("#choice option").all_inner_texts()
    assert sorted(options) == ["top-16", "top-4", "top-64"]
    page.select_option("#choice", "top-64")
    assert signal(page, "ablation", "choice") == "top-64"
    assert "own best 64 neurons" in page.locator("#lead").inner_text()
    page.select_option("[data-signal=swept]", EVIL[0])
    assert signal(page, "sweep", "swept") == EVIL[0]
