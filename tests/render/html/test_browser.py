"""Pages in a real browser: what it complains of, asks for, shows, and does when one clicks and types."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import browser
import msgspec
import numpy as np
import pytest

from bninspect import codec
from bninspect.inspection.watch.course import course

HOSTILE = "</script><img src=x onerror=window.run=1><b>{0}%{{x}}</b>"
CHOSEN = "document.querySelector('.panel select.layer').value"
ORDER = "[...document.querySelectorAll('#r0-layers tbody tr')].filter(row => !row.hidden).map(row => row.dataset.layer)"
DRAWN = """[...document.querySelectorAll(".plot")].map(plot => [
    plot.parentElement.id, plot.querySelectorAll(".main-svg").length > 0, plot.data.length])"""
UNDRAWN = """[...document.querySelectorAll(".plot")].map(plot => {
    const legend = plot.querySelector(".legend");
    return plot.dataset.height - plot.clientHeight + (legend ? legend.getBoundingClientRect().height : 0);
})"""  # pixels that a legend takes from a picture
SMALLEST = """Math.min(...[...document.querySelectorAll("body *")].filter(
    one => !one.matches("script, style") && [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())
).map(one => parseFloat(getComputedStyle(one).fontSize)))"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """One page of one browser for all tests."""
    if browser.found() is None:
        if os.environ.get("CI"):
            pytest.fail("pages are tested in a browser, and there is none: apt-get install chromium")
        pytest.skip("there is no Chromium, which pages are tested in: apt-get install chromium")
    opened = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield browser.Page(opened)
    opened.close()


@pytest.fixture(scope="module")
def visit(tab, page, tmp_path_factory):
    """Open the page of a report; the browser has nothing to complain of, and asks for nothing but the file."""
    folder, made = tmp_path_factory.mktemp("pages"), {}

    def opened(report, link=""):
        if id(report) not in made:
            made[id(report)] = folder / f"{len(made)}.html", report  # which keeps its id its own
            made[id(report)][0].write_text(page(report))
        address = made[id(report)][0].as_uri()
        tab.size(1280)
        tab.media()
        tab.open(f"{address}{link}")
        assert tab.complaints() == []
        assert {one.partition("#")[0] for one in tab.requests()} == {address}
        return tab

    return opened


SECTIONS = {
    "summary": ["r0-widths"],
    "stats": ["r0-depth", "r0-heat", "r0-panel-mean", "r0-panel-var", "r0-panel-d", "r0-panel-weight"],
    "check": ["r0-depth", "r0-findings", "r0-panel-mean", "r0-panel-var", "r0-panel-d", "r0-panel-weight"],
    "noise": ["r0-depth", "r0-sizes", "r0-panel-shift", "r0-panel-scale"],
    "recalibrate": ["r0-d", "r0-r", "r0-panel-mean", "r0-panel-var", "r0-panel-d_before", "r0-panel-d"],
    "diff": ["r0-distances", "r0-before-after"],
}


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_picture_is_drawn_and_every_table_is_there(visit, reports, kind):
    tab = visit(reports[kind])
    drawn = tab.run(DRAWN)
    assert [name for name, *_ in drawn] == SECTIONS[kind]
    assert all(shown and traces for _, shown, traces in drawn)
    assert tab.run("document.querySelectorAll('h1').length") == 1
    assert tab.run("document.querySelector('.verdict').textContent").strip()
    assert len(tab.run(ORDER)) >= 1
    assert tab.run(SMALLEST) >= 11
    assert tab.run("document.querySelectorAll('.bartext').length") == 0  # plotly would make it as small as the bar
    for width in (360, 3840):
        tab.size(width)
        tab.wait(f"[...document.querySelectorAll('.plot .main-svg')].every(one => one.clientWidth <= {width})")
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run(SMALLEST) >= 11
        tab.wait(f"Math.max(...{UNDRAWN}) < 60")


def test_a_click_or_a_key_on_a_head_sorts(visit, reports):
    tab = visit(reports["stats"])
    by_size = sorted(reports["stats"].layers, key=lambda layer: layer.d_max, reverse=True)
    paths = [layer.path for layer in by_size]
    button = "[...document.querySelectorAll('#r0-layers thead button')].find(one => one.textContent === '|d| max')"
    tab.run(f"{button}.click()")
    assert tab.run(ORDER) == paths
    tab.run(f"{button}.focus()")
    tab.press("Enter")
    assert tab.run(ORDER) == paths[::-1]
    assert tab.run(f"{button}.parentElement.ariaSort") == "ascending"


SORTED = """(name => {{
    const table = document.querySelector("#r0-layers");
    const button = [...table.querySelectorAll("thead button")].find(one => one.textContent === name);
    button.click();
    return [button.title, document.querySelector(".sorted").textContent];
}})({0!r})"""


@pytest.mark.parametrize(
    ("head", "values", "expected", "told"),
    [
        ("r", [(0.9, 1.2), (0.1, 1.1), (1.0, 5.0), (1.0, 1.0), (None, None)], [1, 2, 0, 3, 4], "further from 1"),
        (
            "mean",
            [(-9.0, 1.0), (2.0, 3.0), (-0.5, 0.1), (1e-05, 1e-04), (0.0, 1200.0)],
            [4, 0, 1, 2, 3],
            "larger in size",
        ),
        ("|d| max", [(0.5,), (1234.5,), (1e-07,), (None,), (12.0,)], [1, 4, 0, 2, 3], ""),
    ],
)
def test_a_column_says_what_it_sorts_by(visit, reports, *, head, values, expected, told):
    layer = reports["stats"].layers[0]
    fields = {"r": ("r_min", "r_max"), "mean": ("mean_min", "mean_max"), "|d| max": ("d_max",)}[head]
    layers = tuple(
        msgspec.structs.replace(layer, path=str(at), channels=None, **dict(zip(fields, found, strict=True)))
        for at, found in enumerate(values)
    )
    tab = visit(msgspec.structs.replace(reports["stats"], layers=layers))
    title, line = tab.run(SORTED.format(head))
    assert tab.run(ORDER) == [str(at) for at in expected]
    assert told in title
    assert line.startswith(f"sorted by {head}")
    assert line.endswith(", descending")
    assert told in line


def test_search_and_the_box_leave_rows_out(visit, reports):
    tab = visit(reports["stats"])
    assert tab.run(ORDER) == ["1", "4"]
    tab.run("document.querySelector('.search').focus()")
    tab.call("Input.insertText", text="4")
    assert tab.run(ORDER) == ["4"]
    assert tab.run("document.querySelector('.shown').textContent") == "1 of 2"
    tab.run("document.querySelector('.search').value = ''")
    tab.run("document.querySelector('.marked').click()")
    marked = tab.run(
        "[...document.querySelectorAll('#r0-layers tr:has(.warning, .error)')].map(row => row.dataset.layer)"
    )
    assert tab.run(ORDER) == marked != []


def test_a_link_opens_the_panel_of_its_layer_with_the_report_s_numbers(visit, reports):
    layer = reports["stats"].layers[1]
    tab = visit(reports["stats"], f"#layer/{layer.path}")
    assert tab.run(CHOSEN) == layer.path
    assert tab.run("document.querySelector('tr.chosen').dataset.layer") == layer.path
    tab.run("document.querySelector('.channels').open = true")
    cells = "[...row.cells].map(cell => Number(cell.textContent))"
    rows = f"[...document.querySelectorAll('.channels tbody tr')].map(row => {cells})"
    tab.wait(f"({rows}).length")
    heads = tab.run("[...document.querySelectorAll('.channels thead th')].map(cell => cell.textContent)")
    shown = dict(zip(heads, np.array(tab.run(rows)).T, strict=True))
    for name in ("mean", "var", "running_mean", "running_var", "weight", "d", "z", "r"):
        np.testing.assert_allclose(shown[name], getattr(layer.channels, name), rtol=1e-4)
    assert shown["channel"].tolist() == list(range(layer.num_features))
    points = tab.run("(({x, y}) => [[...x], [...y]])(document.querySelector('#r0-panel-mean .plot').data.at(-1))")
    np.testing.assert_allclose(points, [layer.channels.running_mean, layer.channels.mean], rtol=1e-6)


def test_dead_channels_are_crosses(visit, reports):
    layer = reports["stats"].layers[0]
    weight = layer.channels.weight.copy()
    weight[2] = 1e-4
    layer = msgspec.structs.replace(layer, channels=msgspec.structs.replace(layer.channels, weight=weight))
    tab = visit(msgspec.structs.replace(reports["stats"], layers=(layer, *reports["stats"].layers[1:])))
    symbols = tab.run("document.querySelector('#r0-panel-var .plot').data.at(-1).marker.symbol")
    assert symbols == ["circle", "circle", "x", "circle"]


def test_the_page_of_a_run_is_drawn(visit, run_file):
    tab = visit(course(run_file), "#layer/4")
    drawn = tab.run(DRAWN)
    assert [name for name, *_ in drawn] == ["r0-course", "r0-steps", "r0-panel-d", "r0-panel-r", "r0-panel-speed"]
    assert all(shown for _, shown, _ in drawn)
    alarms = "document.querySelector('#r0-panel-d .plot').data.at(-1)"
    assert 26 in tab.run(f"{alarms}.x")
    assert tab.run("document.querySelector('#r0-steps .plot').data[0].z.map(row => row.length)") == [15, 15]


def test_each_layer_of_a_run_is_a_line_and_a_click_makes_it_the_thick_one(visit, run_file):
    found = course(run_file)
    tab = visit(found)
    each, thick = (f"document.querySelector('#r0-course .plot').data[{at}]" for at in (0, 4))
    size = len(found.steps)
    for field, choice in (("d_median", 0), ("d_max", 1)):
        tab.run(f"(one => {{ one.value = {choice}; one.dispatchEvent(new Event('change')) }})"
                "(document.querySelector('#r0-course .choice'))")  # fmt: skip
        y = np.array(tab.run(f"[...{each}.y].map(value => Number.isFinite(value) ? value : null)"), float)
        np.testing.assert_allclose(y.reshape(2, size + 1)[:, :-1], found.figures[field].T, rtol=1e-6)
        assert np.isnan(y.reshape(2, size + 1)[:, -1]).all()
    other = "1" if tab.run(CHOSEN) == "4" else "4"
    at = [*tab.run(f"{each}.layers")].index(other) + 3
    place = f"{each}.x[{at}], Math.log10({each}.y[{at}])"
    before = tab.run("(document.querySelector('#r0-course').scrollIntoView(), scrollY)")
    x, y = tab.run(PLACE.format("#r0-course", *place.split(", ", 1)).replace("d2p(", "l2p(", 2))
    click(tab, "#r0-course", x, y)
    tab.wait(f"{CHOSEN} === '{other}'")
    assert tab.run(f"{thick}.name") == other
    assert tab.run("scrollY") == before
    assert tab.run("decodeURIComponent(location.hash)") == f"#layer/{other}"


def test_the_heat_map_shows_what_is_chosen(visit, reports):
    tab = visit(reports["stats"])
    rows = "document.querySelector('#r0-heat .plot').data[0].z.map(row => [...row])"
    choice = "document.querySelector('#r0-heat .choice')"
    wanted = (
        lambda found: found.d,
        lambda found: np.log2(found.r),
        lambda found: found.weight,
        lambda found: abs(found.z),
    )
    for at, figure in enumerate(wanted):
        tab.run(f"{choice}.value = {at}; {choice}.dispatchEvent(new Event('change'))")
        for row, layer in zip(tab.run(rows), reports["stats"].layers, strict=True):
            np.testing.assert_allclose(row, figure(layer.channels), rtol=1e-5, atol=1e-6)


PLACE = """(([plot, x, y]) => {{
    const {{xaxis, yaxis}} = plot._fullLayout, box = plot.getBoundingClientRect();
    return [box.x + xaxis._offset + xaxis.d2p(x), box.y + yaxis._offset + yaxis.d2p(y)];
}})([document.querySelector('{0} .plot'), {1}, {2}])"""


@pytest.mark.parametrize("picture", ["#r0-depth", "#r0-heat"])
def test_a_click_in_the_picture_leads_to_the_layer(visit, reports, picture):
    """The second layer: its median d, and the cell of its first channel."""
    tab = visit(reports["stats"])
    tab.run(f"document.querySelector('{picture}').scrollIntoView()")
    at = "2, document.querySelector('#r0-depth .plot').data[2].y[1]" if picture == "#r0-depth" else "0, 2"
    x, y = tab.run(PLACE.format(picture, *at.split(", ", 1)))
    click(tab, picture, x, y)
    tab.wait(f"{CHOSEN} === '4'")


def click(tab, picture, x, y):
    """Where the picture has told what lies there."""
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tab.wait(f"document.querySelector('{picture} .hoverlayer').textContent.length")
    for kind in ("mousePressed", "mouseReleased"):
        tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def test_names_run_nothing(visit, reports):
    report = reports["stats"]
    named = [msgspec.structs.replace(layer, path=HOSTILE + str(at)) for at, layer in enumerate(report.layers)]
    source = msgspec.structs.replace(report.source, model=HOSTILE)
    tab = visit(msgspec.structs.replace(report, layers=tuple(named), source=source))
    assert tab.run("[window.run === undefined, document.querySelectorAll('main img, main b').length]") == [True, 0]
    assert tab.run(CHOSEN) == HOSTILE + "0"
    tab.run("document.querySelectorAll('#r0-layers a')[1].click()")
    tab.wait(f"{CHOSEN} === {HOSTILE + '1'!r}")
    hover = "Plotly.Fx.hover(document.querySelector('#r0-depth .plot'), [{curveNumber: 2, pointNumber: 1}])"
    tab.run(hover)
    assert "onerror" in tab.wait("document.querySelector('#r0-depth .hoverlayer').textContent")
    assert tab.run("window.run === undefined")
    assert tab.complaints() == []


def hostile(text, plain):
    """The same record or report, with a name that is no name."""
    return text.replace(json.dumps(plain), json.dumps(HOSTILE + plain))


@pytest.mark.parametrize("kind", [*SECTIONS, "watch"])
def test_names_of_layers_and_files_run_nothing(tab, run, reports, run_file, kind):
    """Of two reports side by side, whose page has all that the page of one has."""
    name = f"{HOSTILE.replace('/', '')}.json"
    text = run_file.read_text() if kind == "watch" else codec.encode(reports[kind])
    Path("a.json").write_text(hostile(hostile(text, "1"), "4"))
    Path(name).write_text(text)
    assert run("report", "a.json", name, "-o", "page.html") == (0, "", "")
    tab.open(Path("page.html").absolute().as_uri())
    assert tab.complaints() == []
    assert tab.run("[window.run === undefined, document.querySelectorAll('main img, main b').length]") == [True, 0]
    tab.run(HOVER)
    tab.wait("[...document.querySelectorAll('.hoverlayer')].some(one => one.textContent.includes('onerror'))")
    assert tab.run("window.run === undefined")
    assert tab.complaints() == []


HOVER = """[...document.querySelectorAll(".plot")].forEach(plot => {
    const at = plot.data.findIndex(trace => trace.hoverinfo !== "skip" && trace.type !== "histogram");
    if (at >= 0) Plotly.Fx.hover(plot, [{curveNumber: at, pointNumber: plot.data[at].type === "heatmap" ? [0, 0] : 0}]);
})"""


def test_the_page_forbids_what_it_does_not_hold(visit, reports):
    """The policy holds even where a name would get through."""
    tab = visit(reports["summary"])
    tab.run("""new Promise(done => {
        document.addEventListener("securitypolicyviolation", done, {once: true});
        document.body.insertAdjacentHTML("beforeend", "<img src='data:,' onerror='window.run=1'>");
    }).then(event => 1)""")
    refused = tab.run("""fetch("https://example.org/").then(() => "sent", () => "refused")""")
    assert refused == "refused"
    assert tab.run("window.run === undefined")
    assert any("Content Security Policy" in str(one) for one in tab.complaints())


def luminance(colour):
    numbers = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    parts = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in numbers]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def test_text_and_lines_stand_out_from_the_paper_in_light_and_dark(visit, reports):
    """WCAG 2.2: 4.5 to 1 for text, 3 to 1 for lines and marks."""
    tab = visit(reports["stats"])
    style = "(name => getComputedStyle(document.documentElement).getPropertyValue(name).trim())"
    texts = {f"--{name}": 4.5 for name in ("text", "soft", "link", "warning", "error", "info")}
    for scheme in ("dark", "light"):
        tab.media(prefers_color_scheme=scheme)
        paper = luminance(tab.run(f"{style}('--paper')"))
        assert (paper < 0.1) == (scheme == "dark")
        for name, least in {**texts, **{f"--line{number}": 3 for number in range(1, 7)}}.items():
            bright, dim = sorted([luminance(tab.run(f"{style}('{name}')")), paper], reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= least, (scheme, name)
        drawn = "document.querySelector('#r0-depth .plot').data[2].line.color"
        tab.wait(f"{drawn} === {style}('--line1')")


def test_paper_has_no_colours(visit, reports, tmp_path):
    tab = visit(reports["stats"])
    tab.media(prefers_color_scheme="dark")
    tab.run("""addEventListener("beforeprint", () => {
        const plots = [...document.querySelectorAll(".plot")];
        window.printed = plots.map(one => JSON.stringify([one.data, one.layout.font]));
        window.width = document.querySelector(".plot .main-svg").clientWidth;
    })""")
    tab.paper(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    colours = re.findall(r"#[0-9a-f]{6}", "".join(tab.run("window.printed")))
    assert colours
    assert {colour for colour in colours if len({colour[1:3], colour[3:5], colour[5:7]}) > 1} == set()
    assert tab.run("window.width") <= 700
    assert tab.run("document.querySelector('#r0-depth .plot').data[2].line.color") == "#56b4e9"  # and back again


def test_paper_lists_all_layers_of_a_finding(visit, reports, tmp_path):
    """On the screen a long list is folded."""
    finding = next(finding for finding in reports["check"].findings if finding.layers)
    places = tuple(msgspec.structs.replace(finding.layers[0], path=f"layer{at}") for at in range(9))
    findings = (msgspec.structs.replace(finding, layers=places, explained_by=()),)
    tab = visit(msgspec.structs.replace(reports["check"], findings=findings))
    tab.run(
        "addEventListener('beforeprint', () => { window.listed = document.querySelector('.finding details').open })"
    )
    tab.paper(tmp_path / "page.pdf")
    assert tab.run("[window.listed, document.querySelector('.finding details').open]") == [True, False]
