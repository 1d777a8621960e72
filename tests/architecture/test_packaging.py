"""The packaging files and README.md agree with the tree and with one another."""

import pathlib
import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
DEPENDENCIES = PROJECT["project"]["dependencies"]
PYTHONS = ("3.11", "3.12")


def _constraints(python):
    """Canonical name -> exact version, as pip would read constraints.txt on that Python."""
    pins = {}
    for line in (CHECKOUT / "constraints.txt").read_text().splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            (pin,) = requirement.specifier
            assert pin.operator == "==" and requirement.name not in pins, line
            pins[canonicalize_name(requirement.name)] = pin.version
    return pins


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_hold_every_dependency_within_its_bounds(python):
    pins = _constraints(python)
    for line in [*DEPENDENCIES, *(r for extra in EXTRAS.values() for r in extra)]:
        requirement = Requirement(line)
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt lacks {requirement.name}"
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{requirement.name} {version} not in {line}"
        )


def test_constraints_are_names_and_versions_only():
    for line in (CHECKOUT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r'[\w.-]+==[\w.]+(; python_version (<|>=) "3\.12")?', line), line


@pytest.mark.parametrize(("python", "jax"), [("3.11", "0.10."), ("3.12", "0.11.")])
def test_the_tested_pairs_of_python_and_jax(python, jax):
    assert _constraints(python)["jax"].startswith(jax)


def test_every_dependency_has_both_bounds():
    for line in DEPENDENCIES:
        operators = {specifier.operator for specifier in Requirement(line).specifier}
        assert operators == {">=", "<"}, line


def test_the_light_requirements_are_the_dependencies_without_seqio():
    lines = (CHECKOUT / "requirements-light.txt").read_text().splitlines()
    light = [line for line in lines if line and not line.startswith("#")]
    assert light == [line for line in DEPENDENCIES if Requirement(line).name != "seqio"]


def test_the_tests_install_what_the_other_extras_need():
    names = ("wandb", "tensorboard", "hf", "gcs", "plot", "guided", "quantize", "serve", "eval")
    needed = [EXTRAS[name] for name in names]
    assert set().union(*needed) <= set(EXTRAS["test"])


def test_every_package_is_listed():
    packages = {
        p.parent.relative_to(CHECKOUT).as_posix().replace("/", ".")
        for p in CHECKOUT.glob("palmscale/**/__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages | {"palmscale.configs"}


def _first_code_block():
    return re.search(
        r"^```\w*\n(.*?)^```", (CHECKOUT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )[1]


def test_readme_opens_with_the_two_commands():
    assert _first_code_block().split("\n") == [
        "pip install -c constraints.txt -e . "
        "&& palmscale train --gin_file=configs/runs/quickstart.gin",
        "pip install -c constraints.txt -e '.[test]' && pytest -n 2 --dist=loadfile",
        "",
    ]


def test_ci_takes_its_command_from_the_readme():
    script = (CHECKOUT / ".ci/run").read_text()
    awk = re.search(r"\$\((awk '.*?' README.md)\)", script)[1]
    taken = subprocess.run(
        ["bash", "-c", awk], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    assert taken.strip() == _first_code_block().splitlines()[1]


def test_ci_says_so_where_the_readme_has_no_command(tmp_path):
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_text((CHECKOUT / ".ci/run").read_text())
    (tmp_path / "README.md").write_text(
        "# x\n\n```\npip install .\n```\n\n```\nother\npytest\n```\n"
    )
    done = subprocess.run(["bash", tmp_path / ".ci/run"], capture_output=True, text=True)
    assert done.returncode == 1 and "has no second line" in done.stderr


def test_every_extra_that_a_message_or_a_page_names_exists():
    named = {}
    pages = [CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")]
    for path in [*pages, *(CHECKOUT / "palmscale").rglob("*.py"), *(CHECKOUT / "launch").iterdir()]:
        text = path.read_text() if path.is_file() else ""
        passed = re.findall(r'_extra_package\("\w+", (?:extra=)?"(\w+)"\)', text)
        for found in re.findall(r"(?:palmscale|[ '\"]\.)\[([\w{},-]+)\]", text):
            for extra in passed if found == "{extra}" else found.split(","):
                named.setdefault(extra, []).append(path.name)
    assert {"wandb", "tensorboard", "hf", "gcs", "plan", "tpu"} <= named.keys()
    assert not named.keys() - EXTRAS.keys(), named
