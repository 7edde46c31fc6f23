"""README and docs as one site: every link leads somewhere, and what the code has is on a page."""

from __future__ import annotations

import html
import re
import resource
import subprocess
import sys
from pathlib import Path

import doc_leaml
import pytest
from doc_pages import PAGES, ROOT

import leaml
from leaml import config as tree


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: a warning of a link, a heading or a page outside of the navigation ends it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime - before.ru_utime < 15, "seconds of a processor"
    return folder


def words(page: Path) -> str:
    """A page as it is read: its text with the entities replaced."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_every_key_of_the_configuration_is_on_a_page(site: Path) -> None:
    shown = words(site / "reference" / "config.html")
    missing = [key for key, _, meaning in tree.explain() if key not in shown or meaning not in shown]
    assert not missing


def test_every_command_and_option_is_on_a_page(site: Path) -> None:
    shown = words(site / "reference" / "cli.html")
    commands = doc_leaml.program().commands
    assert len(commands) > 15
    assert not [name for name in commands if f"leaml {name} [OPTIONS]" not in shown]
    assert not [option for option in doc_leaml.options() if option not in shown]


def test_every_public_name_is_on_a_page(site: Path) -> None:
    shown = words(site / "reference" / "api.html")
    public = set(leaml.__all__) - {"__version__"}
    assert not [name for name in public if f"leaml.{name}" not in shown]
    assert "run `leaml" not in shown and "Args:" not in shown, "docstrings are laid out"


def test_every_page_of_the_repository_is_one_of_the_site(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= {page.relative_to(site) for page in site.rglob("*.html")}
    assert "make demo" in words(site / "index.html")


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    """No fonts, scripts, styles or images of other hosts."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=[\"']?((?:https?:)?//[^\"' >]+)", text)
        loaded += re.findall(r"<link[^>]* href=[\"']?((?:https?:)?//[^\"' >]+)", text)
        assert not loaded, page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text()), style
