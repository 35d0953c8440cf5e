"""The page: static files, read once when the server starts. No path from a request reaches the file system."""

from pathlib import Path

TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip


def _read() -> dict[str, tuple[bytes, str]]:
    paths = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in TYPES)
    files = {f"/page/{path.name}": (path.read_bytes(), TYPES[path.suffix]) for path in paths}
    files["/"] = files.pop("/page/index.html")
    return files


FILES = _read()
