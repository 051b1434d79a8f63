"""What starting `mdm` costs: processor time and seconds of whole commands, beside Python alone and the import of what no command avoids.

Starts a local stack of its own for the commands that ask a service. Each round takes every command in turn; the first round, which fills
the file cache, is not counted. Prints medians and the least, for on a busy machine only the least is near the truth.

Run: python bench/start.py [--rounds 12]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mdm_testing import machine
from mdm_testing.local_stack import LocalStack
from mdm_testing.process import BIN

_NOT_FOUND = 3


def commands(stack: LocalStack) -> dict[str, list[str]]:
    """Return the commands by name."""
    mdm = [str(BIN / "mdm"), "--config", str(stack.client_config("alice"))]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import grpc'": [sys.executable, "-c", "import grpc"],
        "mdm --help": [*mdm, "--help"],
        "mdm whoami, local files only": [*mdm, "whoami"],
        "mdm ls of a name that does not exist": [*mdm, "ls", "/biomed/none"],
        "mdm query of a collection that does not exist": [*mdm, "query", 'SELECT guid FROM "/none" LIMIT 1'],
    }


def spent(command: list[str], home: Path) -> tuple[float, float]:
    """Return processor seconds and seconds of a command."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    code = subprocess.run(command, check=False, capture_output=True, env=environment).returncode
    assert code in (0, _NOT_FOUND), code
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    begin = machine.state()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack = LocalStack(folder / "stack")
        try:
            stack.up()
            found: dict[str, list[tuple[float, float]]] = {}
            for number in range(arguments.rounds + 1):
                for what, command in commands(stack).items():
                    taken = spent(command, folder)
                    if number:
                        found.setdefault(what, []).append(taken)
        finally:
            stack.down()
    print(f"{begin}; load {machine.load()} at the end; {arguments.rounds} rounds in turn after one to warm up\n")
    print("| command | processor s, least | median | s, least | median |\n|---|---|---|---|---|")
    for what, values in found.items():
        cells = [f"{function(column):.3f}" for column in zip(*values, strict=True) for function in (min, statistics.median)]
        print(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
