"""What the Dockerfile installs is in the build's context, which begins with nothing."""

import re

from tests.structure.repository import ROOT


def test_every_package_of_an_image_is_in_the_builds_context():
    installed = re.findall(r"\./((?:libs/)?[a-z]+)\b", (ROOT / "deploy/Dockerfile").read_text())
    context = (ROOT / ".dockerignore").read_text().splitlines()
    wanted = {f"!{name}/pyproject.toml" for name in installed if name != "service"}
    assert len(wanted) > 3
    assert wanted - set(context) == set()
