"""What the README has a user set in a shell."""

import os
import subprocess
from pathlib import Path

README = Path(__file__).parents[3] / "README.md"


def test_programs_of_the_virtual_environment_do_not_hide_those_of_dcmtk(tmp_path):
    (export,) = (line for line in README.read_text().splitlines() if line.startswith("export MDM_CONFIG="))
    dcmtk, checkout = tmp_path / "dcmtk", tmp_path / "checkout"
    for directory in (dcmtk, checkout / ".venv" / "bin"):
        directory.mkdir(parents=True)
        for name in ("storescu", "mdm") if directory != dcmtk else ("storescu",):
            (directory / name).touch(mode=0o755)
    found = subprocess.run(
        ["/bin/bash", "-c", f"cd {checkout}; {export}; command -v storescu; command -v mdm"],
        env={"PATH": f"{dcmtk}{os.pathsep}/usr/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [str(dcmtk / "storescu"), str(checkout / ".venv" / "bin" / "mdm")]
