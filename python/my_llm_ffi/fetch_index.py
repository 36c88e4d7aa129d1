"""Downloads one wheel from a package index over https, where pip is absent; counterpart: fetch.py.

Which index: ``PIP_INDEX_URL``, or ``index-url`` of pip's configuration files, as pip itself would
choose. None of them set: say how to get on, rather than choose a host for the user.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Callable

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30
_SCHEMES = ("https", "http", "file")


def download(project: str, version: str, folder: Path, share: Callable[[int], None]) -> Path:
    """The wheel of a project in `folder`; `share` hears how many bytes have come.

    Raises:
        OSError: No index is configured, it cannot be reached, or it has no such wheel.

    """
    index = index_url()
    if index is None:
        raise OSError(
            "there is no pip (python -m ensurepip installs it), and no package index is named by "
            "PIP_INDEX_URL or pip's configuration"
        )
    page = f"{index.rstrip('/')}/{re.sub(r'[-_.]+', '-', project).lower()}/"
    links = _Links(page)
    with _open(page) as response:
        links.feed(response.read().decode("utf-8", "replace"))
    wheel = f"{re.sub(r'[-_.]+', '_', project).lower()}-{version}-"
    for url in links.found:
        parts = urllib.parse.urlsplit(url)
        name = urllib.parse.unquote(parts.path.rpartition("/")[2])
        if name.lower().startswith(wheel) and name.endswith(".whl"):
            digest = urllib.parse.parse_qs(parts.fragment).get("sha256", [""])[0]
            return _save(parts._replace(fragment="").geturl(), folder / name, digest, share)
    raise OSError(f"{page} lists no wheel {wheel}*.whl")


def index_url() -> str | None:
    """The index that pip would use, as far as the user has said."""
    url = os.environ.get("PIP_INDEX_URL")
    if url:
        return url
    parser = configparser.RawConfigParser()
    files = [
        Path("/etc/pip.conf"),
        Path("~/.pip/pip.conf").expanduser(),
        Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "pip" / "pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    given = os.environ.get("PIP_CONFIG_FILE")
    try:
        parser.read([*map(str, files), *([given] if given else [])])
    except configparser.Error:
        return None
    return parser.get("global", "index-url", fallback=None)


class _Links(HTMLParser):
    """Targets of the anchors of a PEP 503 page."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self._base = base
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects ``<a href=…>``."""
        target = dict(attrs).get("href")
        if tag == "a" and target:
            self.found.append(urllib.parse.urljoin(self._base, target))


def _open(url: str) -> Any:
    if urllib.parse.urlsplit(url).scheme not in _SCHEMES:
        raise OSError(f"{url!r} is not an https address")
    request = urllib.request.Request(url, headers={"Accept": "text/html"})
    certificates = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=certificates)
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise OSError(f"{url}: {error.reason}") from error


def _save(url: str, path: Path, sha256: str, share: Callable[[int], None]) -> Path:
    digest, size = hashlib.sha256(), 0
    with _open(url) as response, path.open("wb") as sink:
        while chunk := response.read(_CHUNK_BYTES):
            digest.update(chunk)
            sink.write(chunk)
            size += len(chunk)
            share(size)
    if sha256 and digest.hexdigest() != sha256:
        raise OSError(f"{path.name} arrived with sha256 {digest.hexdigest()}, expected {sha256}")
    return path
