"""Figures in notebooks and in papers: nothing is loaded, and they are as wide as they shall be."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest

import relact
from relact import progress
from relact.errors import InputError
from relact.reporting import figures
from relact.reporting.gather import gather
from relact.reporting.looks import WIDTHS
from relact.reporting.offline import Figures, offline, svg

REQUEST = re.compile(r"(?:src|href)=|@import|<script|url\((?!#)")


@pytest.fixture(scope="module")
def gathered(study):
    return gather(study)


def test_a_notebook_shows_charts_without_a_request(gathered):
    for name, chart in figures.charts(gathered).items():
        shown = offline(chart)
        bundle = shown._repr_mimebundle_()
        assert set(bundle) == {"image/svg+xml", "text/plain"}, name
        assert bundle["image/svg+xml"].startswith("<svg") and not REQUEST.search(bundle["image/svg+xml"])
        assert shown.to_dict() == chart.to_dict() and isinstance(shown, type(chart))
        changed = shown.properties(title="mine")
        assert "mine" in changed._repr_mimebundle_()["image/svg+xml"]


def test_a_report_without_a_target_is_its_figures(study):
    found = relact.report(study)
    assert isinstance(found, Figures) and list(found) == list(relact.charts(study))
    html = found._repr_html_()
    assert html.count("<svg") == len(found) and not REQUEST.search(html)


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_fit_a_column_and_a_page(gathered, width):
    for name, chart in figures.charts(gathered, width=width).items():
        drawn = svg(chart)
        pixels = float(re.search(r'<svg[^>]* width="([\d.]+)"', drawn).group(1))
        assert pixels <= WIDTHS[width] + 1, name
        sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)px"', drawn)]
        assert min(sizes) >= 6, name  # pixels, of which 96 are an inch
        assert "talker" in drawn, name


def test_another_width_is_refused(study, tmp_path):
    with pytest.raises(InputError, match="no width 'poster'"):
        relact.report(study, figures=tmp_path, width="poster")


def test_the_display_of_a_store_is_for_people(study):
    html = study._repr_html_()
    assert "fingerprint" not in html and study.manifest.model.fingerprint not in html
    assert "talker" in html and "country_capital" in html
    assert "checksums" not in relact.open(study.path)._repr_html_()


def test_a_notebook_shows_bars_and_nothing_else_does(monkeypatch):
    shown = []
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    shell = SimpleNamespace(kernel=None)
    ipython.get_ipython = lambda: shell
    display.HTML = str
    display.display = lambda html, display_id: shown.append(html) or SimpleNamespace(update=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(progress, "BARS", progress.Bars())
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    for done in (0, 10, 40):
        progress.in_notebooks("capture", done, 40, "<prompts>"[1:-1])
    assert shown[0] == "<div>capture <progress value='0' max='40'></progress> 0/40 prompts</div>"
    assert "10/40 prompts, 30 s left" in shown[1] and "40/40" in shown[2] and len(shown) == 3
    del shell.kernel  # a shell in a terminal has none
    progress.in_notebooks("capture", 0, 40, "prompts")
    monkeypatch.delitem(sys.modules, "IPython")
    progress.in_notebooks("capture", 0, 40, "prompts")
    assert len(shown) == 3
