"""The files of npm packages that pages load, and no others of those packages.

The packages hold well over a thousand files; each that is served costs every web process time when it starts.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles.finders import FileSystemFinder
from django.core.files.storage import FileSystemStorage

# Below node_modules, as pathlib's `glob` takes them.
SERVED = (
    "@highlightjs/cdn-assets/es/core.min.js",
    "@highlightjs/cdn-assets/es/languages/*.min.js",
    "dompurify/dist/purify.min.js",
    "htmx.org/dist/htmx.min.js",
    "katex/dist/katex.min.css",
    "katex/dist/katex.min.js",
    "katex/dist/fonts/*.woff2",
    "markdown-it/dist/browser/markdown-it.esm.min.mjs",
    "streaming-markdown/smd.min.js",
)


class NpmFinder(FileSystemFinder):
    """Finds `SERVED`, each as `npm/…`."""

    def __init__(self) -> None:
        self.root = Path(settings.BASE_DIR, "node_modules")
        storage = FileSystemStorage(location=self.root)
        storage.prefix = "npm"  # type: ignore[attr-defined]  # As FileSystemFinder has it.
        self.locations = [("npm", str(self.root))]
        self.storages = {str(self.root): storage}

    def list(self, ignore_patterns: Iterable[str] | None) -> Iterator[tuple[str, FileSystemStorage]]:
        """Each file's path below node_modules, with where it lies."""
        for pattern in SERVED:
            for file in self.root.glob(pattern):
                yield file.relative_to(self.root).as_posix(), self.storages[str(self.root)]
