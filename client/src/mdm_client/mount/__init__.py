"""The catalog as a directory of this machine, by FUSE."""

import os

# Debian's fuse3. Where there are two versions, mfusepy takes the older one, unless this names the other before the import.
os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
