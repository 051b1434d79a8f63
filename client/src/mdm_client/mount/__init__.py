"""The catalog as a directory of this machine, by FUSE."""

import os

# Debian's fuse3: where there are two versions, mfusepy takes the older one unless it is told before it is imported.
os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
