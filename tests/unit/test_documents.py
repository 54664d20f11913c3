"""References in the documents exist, and generated documents are current."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from docs import generate
from tests.support.command_line import run_command
from tests.support.harness import ROOT

_TESTS = Path(__file__).parents[1]
_ROOT = _TESTS.parent
_DOCS = _ROOT / "docs"
#: The short names of folders that security.md uses; docs/design.md writes paths in full.
_FOLDERS = {"C": "contract", "U": "unit", "F": "flux"}
_CODE = re.compile(r"`([^`]+)`")


def _named(document: str) -> list[tuple[str, str]]:
    """Return file and test (empty: the whole file) of each reference in the tables of a document."""
    references = []
    for line in (_DOCS / document).read_text().splitlines():
        if not line.startswith("|"):
            continue
        folder, file = "", ""
        for part in re.split(r"(\b[CUF] (?=`)|`[^`]+`)", line.rpartition("|")[0].rpartition("|")[2]):
            if part.strip() in _FOLDERS:
                folder = _FOLDERS[part.strip()]
            elif match := _CODE.fullmatch(part):
                path, _, test = match[1].partition("::")
                if path.endswith(".py") and path.rpartition("/")[2].startswith("test_"):
                    file = f"{folder}/{path}" if folder else path
                    references.append((file, test))
                elif path.startswith("test_") and file:
                    references.append((file, path))
    return references


@pytest.mark.parametrize("document", ["security.md", "design.md"])
def test_tests_named_in_tables_exist(document: str) -> None:
    references = _named(document)
    assert references, "the tables name no test: the pattern no longer fits the document"
    for file, test in references:
        path = _TESTS / file
        assert path.is_file(), f"{document} names {file}, which does not exist"
        if test:
            name = test.partition("[")[0]
            assert re.search(rf"^\s*(async )?def {name}\(", path.read_text(), re.MULTILINE), (
                f"{document} names {file}::{test}, which does not exist"
            )


_PAGES = sorted(
    path.relative_to(_ROOT)
    for pattern in ("*.md", "docs/*.md", ".github/*.md", "helm/*/README.md", "examples/**/*.md")
    for path in _ROOT.glob(pattern)
)
#: Pages that name modules: relative to sidecar/, to tests/ or to the repository.
_CODE_PAGES = ("CONTRIBUTING.md", "docs/architecture.md", "docs/design.md", "docs/security.md")
_FENCE = re.compile(r"^( *)(```+).*?^\1\2 *$", re.DOTALL | re.MULTILINE)


def _slug(heading: str) -> str:
    """Return the anchor that GitHub generates for a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def _anchors(path: Path) -> set[str]:
    return {_slug(heading) for heading in re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text()), re.MULTILINE)}


@pytest.mark.parametrize("page", _PAGES, ids=str)
def test_links_have_targets(page: Path) -> None:
    here = _ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", here.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (here.parent / path).resolve() if path else here
        assert linked.exists(), f"{page} links to {target}, which does not exist"
        assert not anchor or anchor in _anchors(linked), f"{page} links to {target}, which has no such heading"


@pytest.mark.parametrize("page", _CODE_PAGES)
def test_named_modules_exist(page: str) -> None:
    text = (_ROOT / page).read_text()
    names = set(re.findall(r"(?<![\w./*-])((?:\w+/)*\w+\.py)\b", text))
    assert names
    for name in sorted(names):
        bases = [
            _ROOT / "sidecar",
            _TESTS,
            *(_TESTS / folder for folder in _FOLDERS.values()),
            _ROOT,
            _TESTS / "contract",
        ]
        found = any((base / name).is_file() for base in bases)
        assert found or list((_ROOT / "sidecar").glob(f"**/{name}")), f"{page} names {name}, which does not exist"


def test_figure_of_the_layers_agrees_with_import_linter() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    contract = next(each for each in project["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    level = {
        package.strip().removeprefix("sidecar."): number
        for number, layer in enumerate(contract["layers"])
        for package in layer.split("|")
    }
    text = (_DOCS / "architecture.md").read_text()
    figure = re.findall(r"^```mermaid\n(.*?)^```", text.partition("## Layers")[2], re.DOTALL | re.MULTILINE)[0]
    drawn = set()
    for line in figure.splitlines()[1:]:
        names = [re.findall(r'"(\w+)"|(?<![\["\w])(\w+)(?!\[)\b', side) for side in line.split("-->")]
        above, below = ([a or b for a, b in side if (a or b) != "main"] for side in names)
        drawn |= {*above, *below}
        for one in above:
            for other in below:
                assert level[one] < level[other], f"the figure has an arrow from {one} to {other}"
    assert drawn == level.keys()


def test_workflow_runs_the_targets_of_the_makefile() -> None:
    jobs = yaml.safe_load((_ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    targets = re.findall(r"^([a-z0-9-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE)
    used = [
        name
        for job in jobs.values()
        for step in job["steps"]
        for name in re.findall(r"^make ([a-z0-9-]+)", step.get("run", ""))
    ]
    assert {"lint", "test", "e2e"} <= set(used) <= set(targets)
    classifiers = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    versions = [each.rpartition(" ")[2] for each in classifiers if re.search(r":: 3\.\d+$", each)]
    assert jobs["test"]["strategy"]["matrix"]["python"] == versions


@pytest.mark.parametrize("name", generate.PAGES)
def test_generated_documents_are_current(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == generate.PAGES[name](), "run `make docs`"


def test_the_openapi_document_is_current() -> None:
    assert json.loads((ROOT / "docs" / "openapi.json").read_text()) == json.loads(run_command("openapi").stdout), (
        "make docs"
    )


def test_digests_of_vendored_files() -> None:
    static = ROOT / "sidecar" / "web" / "static"
    rows = re.findall(r"^\| (\S+) \|.*`([0-9a-f]{64})`", (static / "README.md").read_text(), re.MULTILINE)
    assert rows
    for name, digest in rows:
        assert hashlib.sha256((static / name).read_bytes()).hexdigest() == digest, name
