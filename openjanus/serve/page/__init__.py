"""The page: static files, read once when the server starts. No path from a request reaches the file system."""

from pathlib import Path

TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml", ".png": "image/png",
}  # fmt: skip
PICTURES = Path(__file__).parents[2] / "assets" / "pictures"  # of the page's suggestions


def _read(folder: Path, where: str) -> dict[str, tuple[bytes, str]]:
    paths = sorted(path for path in folder.iterdir() if path.suffix in TYPES)
    return {f"{where}/{path.name}": (path.read_bytes(), TYPES[path.suffix]) for path in paths}


FILES = _read(Path(__file__).parent, "/page") | _read(PICTURES, "/page/pictures")
FILES["/"] = FILES.pop("/page/index.html")
