"""The repository's other files: one version everywhere, and a CI workflow that runs the usual commands."""

import re
import tomllib

import yaml

from experiments.harness.source_code import ROOT
from experiments.study.replicates import read_replicate


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest.split()[1].rstrip(",") == str(citation["version"]) == project["version"]
    assert citation["license"] == project["license"]


def test_the_citation_and_the_readme_name_the_same_paper() -> None:
    (paper,) = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    number = paper["url"].rpartition("/")[2]
    assert f"arxiv.org/abs/{number}" in (ROOT / "README.md").read_text()
    assert f"arXiv:{number}" == paper["identifiers"][0]["value"]


def test_the_github_workflow_runs_the_ci_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in [step.get("run") for step in steps]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_every_run_that_an_example_verifies_is_published() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "experiments/study/verify.py"]
    named = {run for page in pages for run in re.findall(r"RUN=(\S+-s\d+-\w+)", page.read_text())}
    published = {
        run.run_id for path in ROOT.glob("results/*/*/*/replicates/0.parquet") for run in read_replicate(path).runs
    }
    assert named
    assert named <= published
