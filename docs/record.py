"""Draw what the demonstration prints as the picture in the README: `mdm-local demo | python docs/record.py docs/demo.svg`."""

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

_WIDTH = 116
# So that the picture fits a screen; the summary at the end speaks of these steps too.
_LEFT_OUT = ("Bringing up", "An image that may", "One of three")
# rich names fonts on a foreign server; a page that shows the picture should not ask for them.
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def draw(recording: str) -> str:
    """Return an SVG of a terminal with these lines; what is too long for it ends in an ellipsis."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor", legacy_windows=False)
    for line in _shown(recording):
        text = Text(line, no_wrap=True, overflow="ellipsis")
        if line.startswith("== "):
            text.stylize("bold cyan")
        text.highlight_regex(r"^  \w+\$ .*", "bold green")
        text.highlight_regex(r"mdm: .*", "yellow")
        console.print(text, no_wrap=True, overflow="ellipsis", highlight=False)
    return _FONT_FACE.sub("", console.export_svg(title="make demo", unique_id="demo"))


def _shown(recording: str) -> Iterator[str]:
    """Yield the lines of the sections that are drawn."""
    for section in re.split(r"^== ", recording.replace(str(Path.cwd()), "~/mdm"), flags=re.MULTILINE)[1:]:
        if not section.startswith(_LEFT_OUT):
            yield from ("== " + section.partition("\nThe stack stays up")[0].rstrip()).splitlines()
            yield ""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(sys.stdin.read()), encoding="utf-8")
