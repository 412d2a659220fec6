"""The pages as a browser shows them: what they load, what they say, what fits, who can read it."""

from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from tests import factories
from tests.browser.chromium import Page
from tests.browser.conftest import Place

pytestmark = pytest.mark.browser
WIDTHS = (1280, 1100, 375)
PATIENCE_S = 60.0

OVERFLOWING = """[...document.querySelectorAll('body *')]
  .filter((one) => !one.closest('.scroll, pre, svg, details:not([open])'))
  .filter((one) => { const box = one.getBoundingClientRect();
    return box.width && (box.right > innerWidth + 1 || box.left < -1); })
  .map((one) => one.tagName + ' ' + one.textContent.slice(0, 60))"""
CLIPPED = """[...document.querySelectorAll('svg.chart')].flatMap((chart) => {
  const around = chart.getBoundingClientRect();
  return [...chart.querySelectorAll('text')].filter((one) => {
    const box = one.getBoundingClientRect();
    return box.left < around.left - 1 || box.right > around.right + 1
      || box.top < around.top - 1 || box.bottom > around.bottom + 1; })
  .map((one) => one.textContent); })"""
DRAWN = """[...document.querySelectorAll('svg.chart')].map((one) => one.getBBox())
  .map((box) => box.width > 100 && box.height > 50)"""
SERIOUS = """axe.run().then((found) => found.violations
  .filter((one) => ['serious', 'critical'].includes(one.impact))
  .map((one) => [one.id, one.nodes.map((node) => node.html.slice(0, 160))]))"""


@pytest.fixture(params=["file", "hosted", "start"])
def url(request: pytest.FixtureRequest, place: Place) -> str:
    if request.param == "file":
        found: str = request.getfixturevalue("file")
        return found
    return f"{place.url}/" if request.param == "start" else report_url(place)


def report_url(place: Place) -> str:
    return f"{place.url}/v1/jobs/{place.done}/report"


def opened(browser: Page, url: str, *, width: int = 1280, dark: bool = False) -> Page:
    browser.set_size(width)
    browser.set_dark(dark=dark)
    browser.open(url)
    return browser


def test_page_asks_for_nothing_but_itself_and_the_console_is_silent(
    browser: Page, url: str
) -> None:
    page = opened(browser, url)
    assert page.requests() == [url]
    assert page.complaints() == []


def test_file_opens_without_a_network_and_draws_every_figure(browser: Page, file: str) -> None:
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.send("Network.emulateNetworkConditions", **offline)
    try:
        page = opened(browser, file)
        drawn = page.evaluate(DRAWN)
    finally:
        browser.send("Network.emulateNetworkConditions", **{**offline, "offline": False})
    assert len(drawn) == 7  # seeds, curves, three rates, importance, search
    assert all(drawn)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen_and_no_text_is_clipped(
    browser: Page, url: str, width: int
) -> None:
    page = opened(browser, url, width=width)
    assert page.evaluate("innerWidth") == width
    assert page.evaluate(OVERFLOWING) == []
    assert page.evaluate(CLIPPED) == []


@pytest.mark.parametrize("dark", [False, True])
def test_everybody_can_read_it(browser: Page, url: str, axe: str, *, dark: bool) -> None:
    page = opened(browser, url, dark=dark)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    page.evaluate(f"{axe};0")
    assert page.evaluate(SERIOUS) == []


def test_without_scripts_verdict_tables_and_pictures_are_there(
    browser: Page, place: Place
) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page = opened(browser, report_url(place))
        document = page.send("DOM.getDocument")["root"]["nodeId"]
        found = {
            kind: len(page.send("DOM.querySelectorAll", nodeId=document, selector=kind)["nodeIds"])
            for kind in ("#verdict-title", "table", "svg.chart", "ol.strip li", "script")
        }
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert found["#verdict-title"] == 1
    assert found["ol.strip li"] == 4
    assert found["table"] >= 12
    assert found["svg.chart"] == 7
    assert found["script"] == 0


def test_first_400_pixels_say_whether_where_how_much_and_how_sure(
    browser: Page, file: str
) -> None:
    page = opened(browser, file, width=1100)
    for selector in ("#verdict-title", "#effect", "#interval", "#summary", "ol.strip"):
        bottom = page.evaluate(
            f"document.querySelector('{selector}').getBoundingClientRect().bottom"
        )
        assert bottom <= 400, selector


def test_page_prints_and_is_pictured(browser: Page, file: str, tmp_path: Path) -> None:
    for width in WIDTHS:
        opened(browser, file, width=width).picture(tmp_path / f"{width}.png")
        assert (tmp_path / f"{width}.png").stat().st_size > 50_000
    browser.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_page_of_a_running_job_follows_it_to_its_end_by_itself(
    browser: Page, place: Place
) -> None:
    job = factories.submit(place.service)
    page = opened(browser, f"{place.url}/v1/jobs/{job}/report")
    assert page.evaluate("document.querySelector('main').dataset.done") == "false"
    page.evaluate("document.getElementById('reproduce-body').open = true; window.kept = 1")
    factories.run_until_done(place.service, place.worker)
    assert eventually(page, "document.querySelector('main').dataset.done", "true")
    assert page.evaluate("window.kept") == 1  # the page was not loaded again
    assert page.evaluate("document.getElementById('reproduce-body').open")
    assert page.evaluate("document.querySelector('.provisional')") is None
    assert page.complaints() == []


def eventually(page: Page, expression: str, wanted: Any) -> bool:
    deadline = monotonic() + PATIENCE_S
    while page.evaluate(expression) != wanted:
        assert monotonic() < deadline, expression
        sleep(0.1)
    return True
