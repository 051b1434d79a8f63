"""`make help` fits on a screen, `make bench` leaves no measurement out, and images have all that their Dockerfile installs."""

import re
import subprocess

from mdm_testing.repository import ROOT, tracked


def made(*arguments: str) -> str:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_help_lists_every_target_in_at_most_fifteen_lines():
    shown = made("help").splitlines()
    assert len(shown) <= 15
    phony = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)
    listed = {word for line in shown for word in line.removeprefix("  make ")[:18].split()}
    assert phony is not None and listed == set(phony[1].split())


def test_every_measurement_is_run_and_every_fuzzer_is_left_to_soak():
    programs = {
        str(path.parent if path.name == "__main__.py" else path)
        for path in tracked("bench/*.py")
        if len(path.parts) == 2 or path.name == "__main__.py"
    }
    run = re.search(r"\.ci/bench \S+ (.*)", made("--dry-run", "bench"))
    assert run is not None and set(run[1].split()) == {path for path in programs if "fuzz_" not in path}
    assert ".ci/soak" in made("--dry-run", "soak")


def test_every_package_of_an_image_is_in_the_builds_context():
    installed = re.findall(r"\./((?:libs/)?[a-z]+)\b", (ROOT / "deploy/Dockerfile").read_text())
    context = (ROOT / ".dockerignore").read_text().splitlines()
    wanted = {f"!{name}/pyproject.toml" for name in installed if name != "service"}
    assert len(wanted) > 3
    assert wanted - set(context) == set()
