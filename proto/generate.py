"""Generates the Python package beside the .proto files; `--check` fails if the committed one differs."""

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).parent
COMMITTED = HERE / "src"


def generate(target: Path) -> None:
    """Write the generated modules and type stubs of every .proto under `target`."""
    protos = sorted(str(path.relative_to(HERE)) for path in HERE.glob("mdm/**/*.proto"))
    bin_dir = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"-I{HERE}",
        f"-I{Path(protoc.__file__).parent / '_proto'}",
        f"--plugin=protoc-gen-mypy={bin_dir / 'protoc-gen-mypy'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--plugin=protoc-gen-mypy_grpc={bin_dir / 'protoc-gen-mypy_grpc'}",
        f"--mypy_grpc_out=quiet:{target}",
        *protos,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")
    for directory in {target / "mdm", *(path.parent for path in target.glob("mdm/**/*.py"))}:
        for part in (directory, *directory.parents):
            if part == target:
                break
            (part / "__init__.py").touch()
    (target / "mdm" / "py.typed").touch()


def differing(left: Path, right: Path) -> list[str]:
    """Return relative paths that are not the same file in both trees."""
    names = {str(path.relative_to(root)) for root in (left, right) for path in root.rglob("*.py*") if path.is_file()}
    names = {name for name in names if "__pycache__" not in name}
    return sorted(
        name
        for name in names
        if not ((left / name).is_file() and (right / name).is_file()) or not filecmp.cmp(left / name, right / name, shallow=False)
    )


def main() -> int:
    """Generate, or compare with what is committed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if the committed code is stale")
    if not parser.parse_args().check:
        shutil.rmtree(COMMITTED, ignore_errors=True)
        COMMITTED.mkdir()
        generate(COMMITTED)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = differing(Path(scratch), COMMITTED)
    for name in stale:
        sys.stderr.write(f"stale: proto/src/{name}: run `make proto`\n")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
