"""A picture to understand as several: tiles of high resolution, then the whole picture (arXiv 2410.13848 §3.5).

    ┌───┬───┐
    │ 1 │ 2 │ ─► pixels of 1, 2, 3, 4 and of the whole picture, each of the size that the eye takes
    ├───┼───┤
    │ 3 │ 4 │
    └───┴───┘

The picture is stretched to the grid of tiles whose shape is nearest its own, and cut; tiles come row by row. A picture
that one tile holds is one picture, as without tiles. Source: InternVL 1.5 (arXiv 2404.16821, §3.3;
OpenGVLab/InternVL, internvl_chat/internvl/train/dataset.py, `dynamic_preprocess`).
"""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from openjanus.config import Config, PositiveInt
from openjanus.processing.image import PixelConfig, normalised, resized, to_rgb, understanding_pixels


@dataclass(frozen=True)
class TileConfig(Config):
    """max_tiles: at most so many, the whole picture not counted. thumbnail: whether the whole picture follows them."""

    max_tiles: PositiveInt = 12
    thumbnail: bool = True


def choose_grid(width: int, height: int, size_px: int, max_tiles: int) -> tuple[int, int]:
    """Columns and rows of tiles for a picture: of the grids with at most `max_tiles`, that whose sides have the ratio
    nearest the picture's. Of several, it is the last that the picture has more than half the pixels of, or else the
    first; they are ordered by their tiles, then by their columns.
    """
    grids = [(columns, rows) for columns in range(1, max_tiles + 1) for rows in range(1, max_tiles // columns + 1)]
    grids.sort(key=lambda grid: (grid[0] * grid[1], grid))
    distances = [abs(width / height - columns / rows) for columns, rows in grids]
    first, *others = (grid for grid, d in zip(grids, distances, strict=True) if d == min(distances))
    fine = [grid for grid in others if width * height > 0.5 * size_px**2 * grid[0] * grid[1]]
    return fine[-1] if fine else first


def picture_pixels(image: Image.Image, c: PixelConfig, tiles: TileConfig | None) -> list[Tensor]:
    """What the eye sees of one picture, in the order of its document: [3, size, size] each, normalised."""
    image, side = to_rgb(image), c.size_px
    columns, rows = (1, 1) if tiles is None else choose_grid(*image.size, side, tiles.max_tiles)
    if tiles is None or columns * rows == 1:
        return [understanding_pixels(image, c)]
    whole = resized(image, (columns * side, rows * side), c)
    corners = [(column * side, row * side) for row in range(rows) for column in range(columns)]
    cut = [normalised(whole.crop((left, top, left + side, top + side)), c) for left, top in corners]
    return [*cut, understanding_pixels(image, c)] if tiles.thumbnail else cut


def single_pixels(image: Image.Image, c: PixelConfig, tiles: TileConfig | None) -> Tensor:
    """As `picture_pixels`, for who has room for one. Raises ValueError for a picture that is cut."""
    views = picture_pixels(image, c, tiles)
    if len(views) > 1:
        raise ValueError(
            f"the picture becomes {len(views)} tiles: send it in messages, or send the pixels of each tile"
        )
    return views[0]
