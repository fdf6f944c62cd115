"""The site builds without a warning, and has every key, command, policy and page."""

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import colosim
from colosim import cli
from colosim.protocol.policies import POLICIES
from colosim.starting.keys import tables

pytest.importorskip("sphinx", reason="the site needs the extra docs")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does, by a machine that reaches nothing."""
    out = tmp_path_factory.mktemp("site")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for scheme in ("http", "https", "all"):
        env[f"{scheme}_proxy"] = env[f"{scheme.upper()}_PROXY"] = "http://127.0.0.1:9"
    line = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*line, "-d", str(out / "doctrees"), str(ROOT / "docs"), str(out / "html")],
        check=False,
        capture_output=True,
        text=True,
        env=env,
        timeout=500,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return out / "html"


def text(page):
    """What a reader of a page sees."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text("utf-8")))


def test_every_page_is_on_it(site):
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    pages.discard(Path("README.md"))
    assert [page for page in pages if not (site / page.with_suffix(".html")).exists()] == []
    first = (site / "index.html").read_text("utf-8")
    beside = [page for page in pages if len(page.parts) == 1 and page.stem != "index"]
    assert [page for page in beside if f'href="{page.with_suffix(".html")}' not in first] == []


def test_every_key_is_in_the_reference(site):
    said = text(site / "reference" / "scenario.html")
    for table in tables():
        assert table.title in said or not table.path
        for key in table.keys:
            assert key.name in said
            assert key.meaning in said
            assert not key.default or key.default in said


def test_every_command_and_option_is_in_the_reference(site):
    said = text(site / "reference" / "commands.html")
    for name, command in cli.cli.commands.items():
        assert f"colosim {name}" in said or name in said
        for each in command.params:
            if each.param_type_name == "option":
                assert each.opts[0] in said


def test_every_policy_is_in_the_reference(site):
    said = text(site / "reference" / "policies.html")
    assert [name for name, each in POLICIES.items() if each.summary not in said] == []


def test_every_public_function_is_in_the_reference(site):
    said = text(site / "reference" / "api.html")
    public = [name for name in colosim.__all__ if not name.startswith("__")]
    assert [name for name in public if f"{name}(" not in said and name not in said] == []


@pytest.mark.skipif(shutil.which("dot") is None, reason="state machines are drawn by Graphviz")
def test_state_machines_are_pictures(site):
    for page in (ROOT / "docs" / "diagrams").glob("*.md"):
        body = (site / "diagrams" / page.name).with_suffix(".html").read_text("utf-8")
        drawn = re.findall(r'<object data="([^"]+\.svg)"', body)
        assert len(drawn) == page.read_text("utf-8").count("```mermaid")
        assert "stateDiagram" not in body
        for picture in drawn:
            assert (site / "diagrams" / picture).exists()


def test_no_link_leads_nowhere_and_nothing_is_fetched(site):
    for page in site.rglob("*.html"):
        body = page.read_text("utf-8")
        for link in re.findall(r'(?:href|src)="([^"]+)"', body):
            path = html.unescape(link).partition("#")[0].partition("?")[0]
            if re.match(r"[a-z]+:", path):
                assert not re.search(rf'src="{re.escape(link)}"', body), link
                assert 'rel="stylesheet" href="http' not in body
            elif path:
                assert (page.parent / path).exists(), f"{page.name}: {link}"
