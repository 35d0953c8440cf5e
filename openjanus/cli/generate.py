"""openjanus generate: draw pictures into files."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openjanus.cli.console import progress_bar
from openjanus.cli.files import check_folder
from openjanus.cli.options import ModelOptions, Which


def generate(
    prompts: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT ...", help="what to draw")],
    n: Annotated[int, arg(aliases=["-n"], help="pictures per prompt")] = 1,
    seed: Annotated[int, arg(help="picture k of a prompt depends on (seed, k) alone")] = 0,
    guidance: Annotated[float | None, arg(help="classifier-free guidance; 1: off; default: the model's own")] = None,
    temperature: Annotated[float | None, arg(help="0: the most probable ids; default: the model's own")] = None,
    top_k: int | None = None,
    top_p: float | None = None,
    size: Annotated[int | None, arg(help="side in pixels; a Janus draws the one size that it has learned")] = None,
    speculative: Annotated[int, arg(help="ids that one pass may give, such as 16; 0: one; the same pictures")] = 0,
    out: Annotated[Path, arg(help="folder for the pictures")] = Path("."),
    which: Which = ModelOptions(),  # noqa: B008  (frozen)
) -> None:
    """Draw pictures of one or several prompts into PNG files, with a contact sheet for more than one."""
    from openjanus.inference.picture_files import file_names, save_contact_sheet, save_png

    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ValueError("empty prompt: say what to draw, such as 'two red apples'")
    check_folder(out)
    engine = which.engine()
    if size is not None and size not in engine.sizes_px:
        raise ValueError(f"size {size}: this model draws {' or '.join(map(str, engine.sizes_px))} pixels a side")
    options = engine.options(n=n, seed=seed, guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p)
    with progress_bar("drawing") as progress:
        images = engine.generate(prompts, options, progress, speculative)
    paths, names = [], file_names(prompts)
    for number, image in enumerate(images):
        request, index = divmod(number, n)
        path = out / f"{names[request]}-seed{seed}-{index}.png"
        save_png(image, path, prompts[request], options, index)
        paths.append(path)
    if len(images) > 1:
        paths.append(out / f"{names[0]}-seed{seed}-sheet.png")
        save_contact_sheet(images, paths[-1])
    print(*paths, sep="\n")
