"""The report in a real browser: drawn without an error or a request, its controls work,
hostile text stays text.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from helpers import browser as browsers
from playwright.sync_api import expect

import relact
from relact.analysis import query

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).parents[2] / "docs" / "example.ipynb"
EVIL = ["<script>window.owned = 1</script>", '"><img src=x onerror="window.owned = 1">', "all"]


@pytest.fixture(scope="module")
def browser():
    """Headless chromium; a missing one is a failure, not a skip."""
    try:
        with browsers.chromium() as started:
            yield started
    except browsers.Missing as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def open_report(browser):
    """Open a report and wait until it is drawn; afterwards: nothing said, nothing asked."""
    visits = []

    def open_file(path, size="desktop", scheme="light", at=""):
        visits.append(browsers.visit(browser, path, size, scheme, at))
        return visits[-1]

    yield open_file
    for visit in visits:
        visit.page.close()
        assert visit.problems() == []


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    relact.report(study, path)
    return path


def test_everything_is_drawn(open_report, report, study):
    visit = open_report(report)
    page = visit.page
    visit.keep("desktop")
    assert visit.undrawn() == []
    marks = {"ablation": 3 * 5, "log_ablation": 3 * 4, "layers": 3 * 4, "distribution": 50}
    for figure, least in marks.items():
        assert page.locator(f"#f-{figure} svg .mark-rect path").count() >= least, figure
    assert page.locator("#f-growth svg .mark-line path").count() >= 3
    cells = page.locator("#f-ablation svg .mark-text text").all_text_contents()
    assert any(cell.endswith("%") for cell in cells)
    assert (
        page.locator("p.about").all_inner_texts()
        == ["talker, k = 200 by average_precision, 18 test prompts (6 of every relation), 2 random sets"] * 2
    )
    best = query.top(study, relation="country_capital", n=1).iloc[0]
    first = page.locator("#neurons tbody tr").first.locator("td").all_inner_texts()
    assert first[1:5] == [best.site, str(best.layer), str(best.neuron), f"{best.average_precision:.4f}"]


def test_texts_before_and_after_come_first(open_report, report, study):
    """What is shown was stored, and what is marked wrong was judged wrong."""
    page = open_report(report).page
    assert page.locator("main section:visible h2").first.inner_text() == "What it says without them"
    page.click("#more-spoken")
    stored, tests = study.dataset("ablations/top-200").load(), study.prompts("test")
    rows = page.locator("#spoken tbody tr")
    assert rows.count() == 3 * 3
    for row in rows.all():
        relation, line, answer, *said = row.locator("td").all_inner_texts()
        marks = [cell.get_attribute("class") for cell in row.locator("td.said").all()]
        ends = [text.strip().endswith(line) for text in tests["text"]]
        asked = [n for n, end in enumerate(ends) if end and tests["object"][n] == answer]
        assert tests["relation"][asked[0]] == relation
        conditions = ("intact", relation, "random-0")
        expected = stored.sel(prompt=asked[0], condition=list(conditions))
        texts = [str(text).strip().split("\n")[0] or "(nothing)" for text in expected["generated"].values]
        assert said == texts
        assert marks == ["said right" if right else "said wrong" for right in expected["correct"].values]


def test_a_neuron_has_a_link_of_its_own(open_report, report, study):
    unit = relact.promoted(study, "top-200").iloc[0]
    place = f"{unit.site}/{unit.layer}/{unit.neuron}"
    visit = open_report(report, at=f"#{place}")
    page = visit.page
    visit.keep("one-neuron")
    assert page.locator("#h-one").inner_text() == place
    shown = page.locator("#unit").inner_text()
    assert f"number 1 of {unit.relation} in top-200" in shown
    chips = page.locator("#unit .chip").all_inner_texts()
    assert chips == [word.strip() or word for word in [*unit.promoted, *unit.suppressed]]
    lines = page.locator("#unit .tokens").all_inner_texts()
    texts = [text.strip().splitlines()[-1] for text in study.prompts("identify")["text"]]
    assert lines and all(any(line.strip().endswith(text) for text in texts) for line in lines)
    coloured = page.locator("#unit .tokens span[style]:not([style*=', 0\\)'])")
    assert coloured.count() > len(lines)
    page.evaluate("location.hash = '#mlp.up/1/99999'")
    page.wait_for_function("document.getElementById('h-one').textContent === 'mlp.up/1/99999'")
    assert "relact neuron STORE mlp.up 1 99999" in page.locator("#unit").inner_text()
    page.evaluate("location.hash = '#main'")
    page.wait_for_function("document.getElementById('one').hidden")


def test_what_neurons_write_is_listed_and_linked(open_report, report, study):
    page = open_report(report).page
    page.select_option("#relation", "adj_comparative")
    table = relact.promoted(study, "top-200")
    table = table[table["relation"] == "adj_comparative"]
    links = page.locator("#units tbody a").all_inner_texts()
    assert links == [f"{row.site}/{row.layer}/{row.neuron}" for row in table.itertuples()]
    page.locator("#units tbody a").nth(2).click()
    page.wait_for_function(f"document.getElementById('h-one').textContent === '{links[2]}'")
    assert page.locator("#one").is_visible()


def test_the_matrix_can_be_ordered_by_effect(open_report, report, study):
    visit = open_report(report)
    page, names = visit.page, study.relations()
    accuracy = study.dataset("ablations/top-200")["accuracy"].load()
    cells = {name: accuracy.sel(relation=name) for name in names}
    change = {name: float(of.sel(condition=name) - of.sel(condition="intact")) for name, of in cells.items()}

    def rows():
        """Names beside the rows, from above."""
        labels = page.locator("#f-ablation svg .role-axis-label text")
        place = "(all, key) => all.map((one) => one.getBoundingClientRect()[key])"
        right = labels.evaluate_all(place, "right")
        spots = zip(right, labels.evaluate_all(place, "y"), labels.all_text_contents(), strict=True)
        listed = sorted((y, name) for x, y, name in spots if abs(x - min(right)) < 3)
        return [name for _, name in listed]

    assert rows() == names
    page.select_option("#order", "effect")
    assert visit.signal("ablation", "order") == "effect"
    page.wait_for_timeout(200)
    assert [change[name] for name in rows()] == sorted(change.values())
    assert len(set(change.values())) > 1


def test_the_first_chart_is_there_soon_and_tables_on_a_phone_keep_their_first_column(open_report, report):
    page = open_report(report, size="phone").page
    box = page.locator("section:has(#spoken) .scroll")
    box.evaluate("box => { box.scrollLeft = 200; }")
    edge = box.bounding_box()["x"]
    first = page.locator("#spoken tbody td").first.bounding_box()["x"]
    assert abs(first - edge) <= 1
    hint = box.evaluate("box => getComputedStyle(box, '::before').content")
    assert "scroll sideways" in hint
    assert page.evaluate("performance.getEntriesByName('first chart').length") == 1


@pytest.mark.parametrize("name", ["ablation", "log_ablation"])
def test_a_matrix_that_is_scrolled_keeps_the_names_of_its_rows(open_report, report, name):
    page = open_report(report, size="phone").page
    box = page.locator(f".scroll:has(#f-{name})")
    box.evaluate("box => { box.style.width = '190px'; box.scrollLeft = 60; }")
    names = box.locator('.role-axis[aria-label^="Y-axis"]')
    expect(names).to_have_attribute("transform", "translate(60,0)")
    labels = names.locator("text")
    left, first = box.bounding_box()["x"], labels.first.bounding_box()
    assert labels.count() >= 3 and first["x"] >= left - 1
    cut = box.locator(".role-mark").first.evaluate("mark => getComputedStyle(mark).clipPath")
    assert cut.startswith("inset(")  # nothing lies under the names
    box.evaluate("box => { box.scrollLeft = 0; }")
    expect(names).to_have_attribute("transform", "translate(0,0)")
    assert box.locator(".role-mark").first.evaluate("mark => getComputedStyle(mark).clipPath") == "none"


def test_choosing_a_relation_and_a_site(open_report, report, study):
    visit = open_report(report)
    page = visit.page
    before = page.locator("#f-distribution svg .mark-rect").first.inner_html()
    page.select_option("#relation", "word_first_letter")
    page.select_option("#site", "mlp.down")
    assert page.locator("#h-neurons").inner_text() == "The best neurons of word_first_letter"
    assert visit.signal("distribution", "relation") == "word_first_letter"
    assert [visit.signal(figure, "site") for figure in ("distribution", "layers")] == ["mlp.down"] * 2
    assert page.locator("#f-distribution svg .mark-rect").first.inner_html() != before
    best = query.top(study, relation="word_first_letter", n=20, sites="mlp.down")
    shown = page.locator("#neurons tbody tr td:nth-child(5)").all_inner_texts()
    assert shown == [f"{value:.4f}" for value in best.average_precision]
    assert set(page.locator("#neurons tbody tr td:nth-child(2)").all_inner_texts()) == {"mlp.down"}


def test_sorting_searching_and_opening_a_neuron_by_keyboard(open_report, report, study):
    visit = open_report(report)
    page = visit.page
    page.get_by_role("button", name="layer").focus()
    page.keyboard.press("Enter")
    assert page.locator("#neurons th[aria-sort]").get_attribute("aria-sort") == "descending"
    layers = [int(text) for text in page.locator("#neurons tbody tr td:nth-child(3)").all_inner_texts()]
    assert layers == sorted(layers, reverse=True) and len(layers) == 20
    page.locator("#more").click()
    assert page.locator("#neurons tbody tr").count() == 120
    best = query.top(study, relation="country_capital", n=1).iloc[0]
    page.fill("#search", f"{best.site} {best.layer} {best.neuron}")
    assert (
        page.locator("#neurons tbody tr").count() == 1 and page.locator("#found").inner_text() == "1 listed"
    )
    page.locator("#neurons button.open").focus()
    page.keyboard.press("Enter")
    assert page.locator("#neurons button.open").get_attribute("aria-expanded") == "true"
    most = query.extremes(study, best.site, int(best.layer), int(best.neuron), n=4)
    detail = page.locator("#neurons .detail").inner_text()
    assert all(text.strip().splitlines()[-1] in detail for text in most.text)
    visit.keep("neuron")
    page.fill("#search", "mlp.gate 3 77777")
    assert "relact neuron STORE mlp.gate 3 77777" in page.locator("#found").inner_text()


def test_the_numbers_of_a_figure_can_be_read_and_sorted(open_report, report):
    visit = open_report(report)
    page = visit.page
    details = page.locator("details.numbers[data-figure=ablation]")
    details.locator("summary").click()
    expect(details.locator("tbody tr")).to_have_count(3 * 5)
    details.get_by_role("button", name="change").click()
    values = [float(text) for text in details.locator("tbody td:nth-child(6)").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    layers = page.locator("details.numbers[data-figure=layers]")
    layers.locator("summary").click()
    expect(layers.locator("tbody tr")).to_have_count(3 * 4)
    page.select_option("#site", "mlp.up")
    expect(layers.locator("tbody tr")).to_have_count(3 * 4)


def test_light_and_dark(open_report, report):
    visit = open_report(report, scheme="dark")
    page = visit.page
    visit.keep("dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(1, 4, 9)"
    page.select_option("#relation", "adj_comparative")
    page.click("#theme")
    page.wait_for_selector("html[data-drawn=light]")
    assert page.evaluate(ground) == "rgb(244, 246, 248)"
    assert visit.signal("distribution", "relation") == "adj_comparative"  # the choice survives
    assert page.locator("#theme").inner_text() == "Dark"


def test_a_phone_needs_no_sideways_scrolling(open_report, report):
    visit = open_report(report, size="phone")
    page = visit.page
    visit.keep("phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = (
        "[...document.querySelectorAll('main p, td, th, select')]"
        ".map((e) => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(page.evaluate(sizes)) >= 13


@pytest.fixture(scope="module")
def hostile(tiny_folder, tmp_path_factory):
    """A sweep of a tiny model on relations, subjects and texts that are markup, or words of the page."""
    rows = [
        {
            "text": f"{relation}</script><script>window.owned = 1</script> {number}",
            "relation": relation,
            "subject": f"<b onclick='window.owned = 1'>{number}</b>",
            "object": "</pre><iframe src='https://example.org'>",
            "answers": [str(number)],
            "template": "{}",
            "language": "en",
            "split": "identify" if number < 8 else "test",
            "shots": 0,
        }
        for relation in EVIL
        for number in range(11)
    ]
    folder = tmp_path_factory.mktemp("hostile")
    store = relact.score(relact.capture(str(tiny_folder), pd.DataFrame(rows), folder / "s.zarr"))
    for k in (4, 16, 64):
        relact.ablate(store, k=k, seeds=[0])
    relact.report(store, folder / "report.html")
    return folder / "report.html"


def test_hostile_text_stays_text(open_report, hostile):
    visit = open_report(hostile)
    page = visit.page
    assert page.locator("#f-sweep svg .mark-line path").count() == 3
    assert page.locator("#relation option").all_inner_texts() == EVIL
    page.select_option("#relation", EVIL[1])
    page.locator("#neurons button.open").first.click()
    for details in page.locator("details").all():
        if "numbers" in (details.get_attribute("class") or ""):
            details.locator("summary").click()
    page.locator("#f-ablation svg .mark-text text").first.hover()
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert EVIL[0] in page.locator("#vg-tooltip-element").inner_text()
    assert "<b onclick" not in page.locator("#neurons .detail").inner_html()
    assert page.evaluate("window.owned") is None
    assert (
        page.evaluate("document.images.length + document.querySelectorAll('iframe, [onclick]').length") == 0
    )


def test_an_ablation_can_be_chosen_from_a_sweep(open_report, hostile):
    visit = open_report(hostile)
    page = visit.page
    options = page.locator("#choice option").all_inner_texts()
    assert sorted(options) == ["top-16", "top-4", "top-64"]
    page.select_option("#choice", "top-64")
    assert visit.signal("ablation", "choice") == "top-64"
    assert "Own neurons cost" in page.locator("#lead").inner_text()
    page.select_option("[data-signal=swept]", EVIL[0])
    assert visit.signal("sweep", "swept") == EVIL[0]


@pytest.mark.slow
def test_the_check_that_the_demo_gets(browser, report, tmp_path):
    assert browsers.check(browser, report) == []
    broken = tmp_path / "broken.html"
    text = report.read_text()
    broken.write_text(
        text.replace("img-src data: blob:", "img-src *").replace(
            "<footer>", "<footer><img src='https://example.org/x.png'>"
        )
    )
    assert any(
        "asked for https://example.org/x.png" in problem for problem in browsers.check(browser, broken)
    )


def test_what_the_notebook_shows_is_drawn_without_a_request(browser, tmp_path):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    bundles = [out["data"] for cell in cells for out in cell["outputs"] if "data" in out]
    shown = ["".join(data.get("image/svg+xml") or data.get("text/html", "")) for data in bundles]
    (tmp_path / "cells.html").write_text(
        '<meta charset="utf-8">' + "\n".join(f"<div>{cell}</div>" for cell in shown)
    )
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "cells.html").as_uri())
    page.screenshot(path=browsers.SCREENSHOTS / "notebook.png", full_page=True)
    charts = page.locator("svg")
    assert charts.count() >= sum("image/svg+xml" in data for data in bundles) > 0
    for at in range(charts.count()):
        box = charts.nth(at).bounding_box()
        assert box["width"] > 100 and box["height"] > 50
        assert charts.nth(at).locator("path, rect, text").count() > 10
    assert len(asked) == 1
    page.close()
