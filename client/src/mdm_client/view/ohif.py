"""OHIF: fetched as its npm package, checked, made smaller, and served from a folder of this user's."""

import base64
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from aiohttp import web
from mdm_wire.errors import Corrupt, FailedPrecondition, Unavailable

from mdm_client.view.guard import CACHEABLE, CSP

PACKAGE, VERSION = "@ohif/app", "3.13.2"
_SHA512 = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
#: Parts of the package that nothing here uses: models for AI tools, slide microscopy, what asks other hosts, other people's settings.
_LEFT_OUT = ("ort/", "dicom-microscopy-viewer/", "customizations/")
_LEFT_OUT_FILES = frozenset(
    {"sw.js", "app-config.js", "google.js", "oidc-client.min.js", "silent-refresh.html", "serve.json", "_headers", "_redirects"}
)
_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".wasm": "application/wasm",
    ".html": "text/html",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".xml": "text/xml",
    ".webapp": "application/manifest+json",
}
#: Pages of OHIF's own, all of them its index.html.
PAGES = ("/viewer", "/segmentation", "/viewer/", "/segmentation/")
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_MANIFEST = re.compile(rb'<link rel="manifest"[^>]*>')
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' {hashes}; worker-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; manifest-src 'self'; object-src 'self' blob:; "
    "frame-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_NOTICE = """OHIF Viewer {version} ({package} of npm), MIT licence: see LICENSE beside this file.
Its scripts contain, among others: Cornerstone3D, dcmjs, dicom-parser, React and Radix UI (MIT), vtk.js and itk-wasm (BSD-3-Clause and
Apache-2.0), gl-matrix (MIT), and as WebAssembly the codecs OpenJPEG (BSD-2-Clause), CharLS (BSD-3-Clause), libjpeg-turbo (BSD-3-Clause, IJG
and zlib) and OpenJPH (BSD-2-Clause). Taken out here: source maps, ort/, dicom-microscopy-viewer/, customizations/, settings.
"""


def default_folder() -> Path:
    """Return where the viewer is kept for this user."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get("MDM_VIEWER_DIR") or caches / "mdm" / "viewer").expanduser() / VERSION


def is_installed(folder: Path) -> bool:
    """Return whether the viewer is in a folder, wholly."""
    return (folder / "NOTICE").is_file()


def install(folder: Path, package: Path | None = None) -> None:
    """Put the viewer into a folder: from the file of its npm package, else fetched by npm.

    Raises:
        Unavailable: NPM_FAILED. FailedPrecondition: NPM_MISSING. Corrupt: VIEWER_DIFFERS: the package is not the one whose hash is known.
    """
    with tempfile.TemporaryDirectory() as scratch:
        archive = package or _fetch(Path(scratch))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != _SHA512:
            raise Corrupt("VIEWER_DIFFERS", f"{archive}: not {PACKAGE} {VERSION} as it is known here; nothing was installed")
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        try:
            _unpack(archive, part)
            (part / "NOTICE").write_text(_NOTICE.format(version=VERSION, package=PACKAGE), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _fetch(scratch: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise FailedPrecondition(
            "NPM_MISSING", f"npm is not installed: install it, or give the file that `npm pack {PACKAGE}@{VERSION}` makes"
        )
    done = subprocess.run(
        [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"], cwd=scratch, capture_output=True, text=True, timeout=600, check=False
    )
    found = list(scratch.glob("*.tgz"))
    if done.returncode != 0 or len(found) != 1:
        reason = (done.stderr.strip().splitlines() or ["no file came"])[-1]
        raise Unavailable("NPM_FAILED", f"npm could not fetch {PACKAGE} {VERSION}: {reason}")
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack what is needed, each file compressed once for good."""
    with tarfile.open(archive) as packed:
        for member in packed:
            path = PurePosixPath(member.name)
            if not member.isfile() or path.parts[0] != "package" or ".." in path.parts:
                continue
            content = packed.extractfile(member)
            assert content is not None
            if path.name == "LICENSE" and len(path.parts) == 2:
                (folder / "LICENSE").write_bytes(content.read())
            if path.parts[1] != "dist":
                continue
            name = "/".join(path.parts[2:])
            if name.startswith(_LEFT_OUT) or name in _LEFT_OUT_FILES or name.endswith(".map"):
                continue
            target = folder / "files" / f"{name}.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(gzip.compress(content.read(), 6, mtime=0))


def app_config(qido: str, wado: str) -> str:
    """Return OHIF's configuration: this server is its one source of data, and it asks nothing of anybody else."""
    source = {
        "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
        "sourceName": "mdm",
        "configuration": {
            "friendlyName": "Medical Data Manager",
            "name": "mdm",
            "qidoRoot": qido,
            "wadoRoot": wado,
            "wadoUriRoot": wado,
            "imageRendering": "wadors",
            "thumbnailRendering": "wadors",
            "qidoSupportsIncludeField": False,
            "supportsReject": False,
            "supportsFuzzyMatching": False,
            "supportsWildcard": True,
            "enableStudyLazyLoad": True,
            "omitQuotationForMultipartRequest": True,
            "bulkDataURI": {"enabled": True},
            "dicomUploadEnabled": False,
        },
    }
    config: dict[str, Any] = {
        "name": "mdm",
        "routerBasename": None,
        "extensions": [],
        "modes": [],
        "customizationService": {"ohif.tours": {"$set": []}},
        "showStudyList": True,
        "maxNumberOfWebWorkers": 3,
        "showWarningMessageForCrossOrigin": False,
        "showCPUFallbackMessage": True,
        "showLoadingIndicator": True,
        "strictZSpacingForVolumeViewport": True,
        "investigationalUseDialog": {"option": "configure", "days": 365},
        "maxNumRequests": {"interaction": 100, "thumbnail": 5, "prefetch": 5},
        "defaultDataSourceName": "mdm",
        "dataSources": [source],
    }
    return f"window.config = {json.dumps(config)};\n"


class Ohif:
    """The files of an installed viewer, as a browser asks for them."""

    def __init__(self, folder: Path, config: str) -> None:
        self._files = {f"/{path.relative_to(folder / 'files').as_posix()[:-3]}": path for path in (folder / "files").rglob("*.gz")}
        self._config = config
        # Browsers ask for the manifest without the session's cookie: it would only be refused.
        index = _MANIFEST.sub(b"", gzip.decompress(self._files["/index.html"].read_bytes()))
        self._index = gzip.compress(index)
        digests = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE.findall(index))
        self._policy = _POLICY.format(hashes=" ".join(f"'sha256-{digest}'" for digest in digests))

    def __contains__(self, path: str) -> bool:
        return path in self._files or path == "/app-config.js" or path in PAGES

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Return a file; the address is one that `in` says is here."""
        request[CSP] = self._policy
        if request.path == "/app-config.js":
            return web.Response(text=self._config, content_type="text/javascript")
        path = "/index.html" if request.path in PAGES else request.path
        content = self._index if path == "/index.html" else self._files[path].read_bytes()
        headers = {"Content-Type": _TYPES.get(PurePosixPath(path).suffix, "application/octet-stream"), "Vary": "Accept-Encoding"}
        if re.search(r"\.[0-9a-f]{16}\.|/[0-9a-f]{16}\.", path):
            request[CACHEABLE] = True
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=content, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=gzip.decompress(content), headers=headers)
