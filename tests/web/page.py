"""The report page of a simulated run in headless Chromium: what is clicked, typed, linked to, printed and looked at.

No part of `make test`: the file's name keeps it out. Screenshots are kept in build/web for people to look at.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from qpatchbench.report.page.build import build

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build/web"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = ((360, 800), (1024, 900), (1600, 1000))

# Colours of the <image> elements that an <svg> shows, drawn on a canvas: an address that is none has no colour.
COLOURS = """async (selector) => {
  const colours = new Set();
  for (const use of document.querySelector(selector).querySelectorAll("use")) {
    const image = new Image();
    image.src = document.querySelector(use.getAttribute("href")).getAttribute("href");
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.width, image.height];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const data = context.getImageData(0, 0, image.width, image.height).data;
    for (let at = 0; at < data.length; at += 4) colours.add(data.slice(at, at + 3).join());
  }
  return colours.size;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.fail("expected Chromium, found none; Debian and Ubuntu have it: apt-get install chromium")
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # it reads our own file only
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("web") / "run"
    shutil.copytree(simulated, folder)
    build(folder, ["html"])
    return (folder / "report.html").as_uri()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The open page; it asks for nothing from elsewhere, and its console stays empty."""
    context = browser.new_context(viewport={"width": 1024, "height": 900})
    own = context.new_page()
    told: list[str] = []
    asked: list[str] = []

    def note(message: ConsoleMessage) -> None:
        told.append(message.text)

    own.on("console", note)
    own.on("pageerror", lambda error: told.append(str(error)))
    own.on("request", lambda request: asked.append(request.url))
    own.goto(address)
    yield own
    assert told == []
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    context.close()


def numbers(page: Page, table: str, column: int) -> list[float]:
    """Values of a column of the visible rows, from top to bottom; what is missing as infinity."""
    cells = page.locator(f"#{table} > tbody > tr:not(.more):visible > :nth-child({column + 1})")
    return [float(value or "inf") for value in cells.evaluate_all("all => all.map(cell => cell.dataset.v)")]


def test_columns_sort_both_ways_with_what_is_missing_last(page: Page) -> None:
    for column, lacking in ((3, 0), (6, 1)):  # every row has a rate, and not every row a rank
        head = page.locator("#log thead th").nth(column)
        before = sorted(numbers(page, "log", column))
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        assert numbers(page, "log", column) == before
        head.locator("button").press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        known = [value for value in before if value < float("inf")]
        assert numbers(page, "log", column)[: len(known)] == known[::-1]
        assert len(before) - len(known) >= lacking
    names = page.locator("#log > tbody > tr")
    pairs = names.evaluate_all("rows => rows.map(row => row.id)")
    assert all(below == f"{row}-more" for row, below in zip(pairs[::2], pairs[1::2], strict=True))


def test_rows_are_filtered_and_searched(page: Page) -> None:
    visible = page.locator("#log > tbody > tr:not(.more):visible")
    whole = visible.count()
    assert whole > 100
    page.locator('select[data-table="log"][name="bits"]').select_option("4")
    at_four = visible.count()
    assert 0 < at_four < whole
    page.locator('input[data-table="log"]').fill("lavan vgg16")
    assert 0 < visible.count() < at_four
    assert page.locator("#log-count").inner_text() == f"{visible.count()} of {whole} rows"
    assert all("lavan" in text and "vgg16" in text for text in visible.all_inner_texts())
    page.locator('input[data-table="log"]').fill("no such thing")
    assert visible.count() == 0


def test_a_view_can_be_linked_to(page: Page, browser: Browser) -> None:
    page.locator('select[data-table="board"][name="model"]').select_option("vgg16")
    page.locator("#board thead button").nth(4).click()
    shown = page.locator("#board > tbody > tr:not(.more):visible")
    expected = shown.evaluate_all("rows => rows.map(row => row.id)")
    again = browser.new_page()
    again.goto(page.url)
    assert "#board?" in page.url
    assert again.locator("#board > tbody > tr:not(.more):visible").evaluate_all("all => all.map(e => e.id)") == expected
    again.close()


def test_a_row_opens_by_keyboard_and_by_link(page: Page) -> None:
    button = page.locator("#board-3 .open")
    assert page.locator("#board-3-more").is_hidden()
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    assert page.locator("#board-3-more").is_visible()
    link = page.locator("#board-3-more a").first
    target = link.get_attribute("href")
    assert target is not None
    link.click()
    assert page.locator(f"{target}-more").is_visible()
    facts = page.locator(f"{target}-more").inner_text()
    assert re.search(r"\d+ fooled of \d+; noise \d+", facts)
    assert "patches/" in facts


def test_an_opened_row_shows_the_images_that_decide_it(page: Page) -> None:
    shown = page.locator("#log-1-more").get_by_role("img", name="label")
    assert shown.count() == 0, "of a closed row nothing is read out"
    page.locator("#log-1 .open").press("Enter")
    assert shown.count() == 6
    for number in range(6):
        name = shown.nth(number).get_attribute("aria-label") or ""
        found = re.fullmatch(r"label (\w+): (\w+) → (\w+), test/\d{5}", name)
        assert found is not None, name
        assert found[1] == found[2]
        assert (found[2] != found[3]) == (number < 3), "three that are fooled, then three that are not"
        below = shown.nth(number).evaluate("each => getComputedStyle(each, '::after').content")
        assert below == f'"{name}"'
        box = shown.nth(number).locator("svg").bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 90
    assert page.evaluate(COLOURS, "#log-1-more .shown svg") > 20, "an image, and no empty frame"


def test_a_link_to_a_row_that_is_filtered_away_shows_it(page: Page) -> None:
    page.locator('input[data-table="log"]').fill("no such thing")
    page.evaluate("location.hash = '#log-5'")
    page.wait_for_selector("#log-5-more", state="visible")
    assert page.locator("#log-5").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_both_schemes_and_screen_readers_find_their_way(
    scheme: str, browser: Browser, address: str
) -> None:
    context = browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
    own = context.new_page()
    own.goto(address)
    own.locator("#log-1 .open").click()
    result = Axe().run(own)
    found = [
        f"{each['id']}: {node['target']} {node.get('failureSummary')}"
        for each in result.response["violations"]
        for node in each["nodes"][:3]
    ]
    assert found == []
    context.close()


def test_the_theme_can_be_switched(page: Page) -> None:
    shade = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(shade)
    page.locator("#theme").click()
    assert page.evaluate(shade) != before


@pytest.mark.parametrize(("across", "down"), SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_out_of_the_window(browser: Browser, address: str, across: int, down: int, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": across, "height": down}, color_scheme="dark" if scheme == "dark" else "light"
    )
    own = context.new_page()
    own.goto(address)
    assert own.evaluate("document.documentElement.scrollWidth") <= across
    PICTURES.mkdir(parents=True, exist_ok=True)
    own.screenshot(path=PICTURES / f"report_{across}_{scheme}.png", full_page=True)
    own.locator("#log-1 .open").click()
    assert own.evaluate("document.documentElement.scrollWidth") <= across
    shown = own.locator("#log-1-more .shown").evaluate_all("all => all.map(each => each.getBoundingClientRect().right)")
    assert max(shown) <= across
    own.locator("#log-1-more .shown").first.scroll_into_view_if_needed()
    own.screenshot(path=PICTURES / f"images_{across}_{scheme}.png")
    context.close()


def test_without_script_every_row_and_every_fact_is_there(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    own = context.new_page()
    own.goto(address)
    text = own.content()
    assert own.locator("#log-7-more").is_visible()
    assert own.locator(".tools:visible").count() == 0
    assert own.locator("#log-7-more .shown svg").first.is_visible()
    assert text.count("fooled of") > 100
    context.close()


def test_the_print_has_every_row_and_the_images_of_open_ones(page: Page, tmp_path: Path) -> None:
    page.locator("#log-1 .open").click()
    rows = page.locator("#log > tbody > tr:not(.more)").count()
    page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
    if shutil.which("pdftotext") is None:
        pytest.fail("expected pdftotext, found none: apt-get install poppler-utils")
    subprocess.run(["pdftotext", "-layout", "report.pdf"], cwd=tmp_path, check=True)
    text = (tmp_path / "report.txt").read_text(encoding="utf-8")
    table = text[text.index("Leaderboard of all patches") : text.rindex("All checks")]
    printed = len(re.findall(r"(?:gap|lavan|per_image_pgd) 5x5", table[: table.index("Failed checks")]))
    assert printed == rows
    first = table[table.index("fooled of") : table.index("not fooled")]
    assert re.sub(r"\s+", " ", first).count("label ") == 3
    listing = subprocess.run(
        ["pdfimages", "-list", "report.pdf"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    sizes = [tuple(map(int, line.split()[3:5])) for line in listing.stdout.splitlines()[2:]]
    assert (16, 16) in sizes, "the images of the row"
    assert (5, 5) in sizes, "their patch"
