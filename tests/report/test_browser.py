"""Reports in a real browser: nothing fails, nothing is fetched, what can be pressed works."""

import os
import shutil

import pytest

from colosim.reporting import report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on the path; install Debian's package chromium")
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        except sync_api.Error as error:
            pytest.skip(f"chromium does not start here: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(results, tmp_path_factory):
    place = tmp_path_factory.mktemp("pages")
    return {name: report(results / name, place / f"{name}.html") for name in ("struck", "sweep")}


@pytest.fixture
def shown(browser, pages):
    """A function that opens a report; what it says and fetches is looked at in the end."""
    said, fetched, contexts = [], [], []

    def show(name, width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert said == []
    assert {url.split(":")[0] for url in fetched} <= {"file", "data"}
    assert len([url for url in fetched if url.startswith("file")]) == len(contexts)


@pytest.mark.parametrize("name", ["struck", "sweep"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_loads_and_fits_the_width(shown, name, width):
    page = shown(name, width, color_scheme="dark" if width == 360 else "light")
    for each in page.locator("details").all():
        each.evaluate("each => each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".verdict p").first.inner_text()
    assert page.locator("h1").count() == 1
    figures = page.locator(".paper svg")
    assert figures.count() >= 1
    for figure in figures.all():
        box = figure.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 100


def test_a_press_sorts_a_table_and_another_turns_it_round(shown):
    page = shown("struck")
    table = page.locator("table.sortable").first
    button = table.locator("th button", has_text="Mean")
    column = "table => [...table.tBodies[0].rows].map(row => row.cells[2].dataset.value)"
    button.click()
    up = [float(x) for x in table.evaluate(column) if x]
    assert up == sorted(up)
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("Mean")
    button.press("Enter")  # from the keyboard, too
    down = [float(x) for x in table.evaluate(column) if x]
    assert down == sorted(up, reverse=True)
    assert table.locator("th[aria-sort]").count() == 1


def test_a_policy_can_be_hidden_and_a_section_opened(shown):
    page = shown("struck")
    lines = page.locator('[data-series="remus"]')
    assert lines.count() >= 2
    assert all(each.is_visible() for each in lines.all()[:2])
    page.get_by_label("remus", exact=True).uncheck()
    assert not any(each.is_visible() for each in lines.all())
    assert page.locator('[data-series="colo"]').first.is_visible()
    page.get_by_label("remus", exact=True).check()
    assert lines.first.is_visible()
    inside = page.locator("details", has_text="Inside colo")
    diagram = inside.locator("svg").last
    assert not diagram.is_visible()
    inside.locator("summary").click()
    assert diagram.is_visible()
