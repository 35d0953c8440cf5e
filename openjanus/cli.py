"""The command line: openjanus generate | ask | chat | demo | serve | train | tokenize | evaluate | convert | bench.

Every wrong input ends in one line on stderr and exit code 2; nothing is half-written.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.conf import Positional, arg

from openjanus.arguments import AsConfigured, Device, Model, Revision, Threads, Weights
from openjanus.bench import commands as bench
from openjanus.fleet.options import FleetOptions
from openjanus.serve.limits import Limits

if TYPE_CHECKING:
    from openjanus.inference.engine import Engine
    from openjanus.runtime import Runtime

# torch and all that needs it are imported where a command starts: `--help` and wrong arguments answer at once.

console = Console(stderr=True, highlight=False)

Recipe = Annotated[Positional[str], arg(metavar="RECIPE", help="such as nano.janus")]
Overrides = Annotated[
    Positional[tuple[str, ...]], arg(metavar="KEY=VALUE ...", help="such as stages.unify.num_steps=100 or seed=1")
]


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
    model: Model = "nano",
    revision: Revision = None,
    device: Device = "auto",
    weights: Weights = "auto",
    threads: Threads = 0,
) -> None:
    """Draw pictures of one or several prompts into PNG files, with a contact sheet for more than one."""
    from openjanus.inference.picture_files import file_names, save_contact_sheet, save_png

    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ValueError("empty prompt: say what to draw, such as 'two red apples'")
    _check_folder(out)
    engine = _engine(model, device, weights, threads, revision)
    if size is not None and size not in engine.sizes_px:
        raise ValueError(f"size {size}: this model draws {' or '.join(map(str, engine.sizes_px))} pixels a side")
    options = engine.options(n=n, seed=seed, guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p)
    with _progress("drawing") as progress:
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


def ask(
    words: Annotated[
        Positional[tuple[str, ...]], arg(metavar="PICTURE ... QUESTION", help="picture files, then one question")
    ],
    temperature: Annotated[float, arg(help="0: the most probable answer")] = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    max_new_tokens: int = 512,
    model: Model = "nano",
    revision: Revision = None,
    as_configured: AsConfigured = False,
    device: Device = "auto",
    weights: Weights = "auto",
    threads: Threads = 0,
) -> None:
    """Answer a question about one or several pictures, streaming."""
    from openjanus.processing.image import open_image
    from openjanus.processing.processor import Message

    if len(words) < 2:
        raise ValueError("expected one or several picture files and then a question in quotes")
    *paths, question = words
    if not question.strip():
        raise ValueError("empty question: ask something, such as 'what is it?'")
    images = [open_image(path) for path in paths]
    engine = _engine(model, device, weights, threads, revision, as_configured)
    options = engine.options(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    for piece in engine.chat([Message("user", [*images, question.strip()])], options, max_new_tokens):
        print(piece, end="", flush=True)
    print()


def chat(
    pictures: Annotated[Positional[tuple[Path, ...]], arg(metavar="[PICTURE ...]", help="to begin with")] = (),
    temperature: Annotated[float, arg(help="0: the most probable answer")] = 0.0,
    seed: int = 0,
    max_new_tokens: int = 512,
    system: Annotated[str | None, arg(help="system prompt; default: the checkpoint's own")] = None,
    out: Annotated[Path, arg(help="folder for drawings")] = Path("."),
    model: Model = "nano",
    revision: Revision = None,
    as_configured: AsConfigured = False,
    device: Device = "auto",
    weights: Weights = "auto",
    threads: Threads = 0,
) -> None:
    """Talk with a model: @PATH puts a picture into what you say, /draw draws one, /help tells the rest."""
    from openjanus.processing.image import open_image
    from openjanus.terminal import Chat

    images = [open_image(path) for path in pictures]
    engine = _engine(model, device, weights, threads, revision, as_configured)
    options = engine.options(temperature=temperature, seed=seed)
    Chat(engine, options, out, max_new_tokens, system).run(images)


def demo(out: Annotated[Path, arg(help="folder for the drawing")] = Path("demo")) -> None:
    """Draw a prompt with the bundled model, then ask about a picture that it ships and about the one it drew."""
    from openjanus.inference.picture_files import contact_sheet, save_png
    from openjanus.processing.image import open_image
    from openjanus.weights.hub import BUNDLED

    started = time.monotonic()
    _check_folder(out)
    engine = _engine("nano", "auto", "auto", 0)
    prompt = "two red apples on a white background"
    options = engine.options(seed=1, n=1)
    with _progress("drawing") as progress:
        (drawn,) = engine.generate(prompt, options, progress)
    path = out / "two-red-apples.png"
    save_png(drawn, path, prompt, options, 0)
    large = out / "two-red-apples-large.png"
    save_png(contact_sheet([drawn]), large, prompt, options, 0)
    shipped = BUNDLED / "pictures" / "cat-and-balloon.png"
    print(f'drew "{prompt}" into {path} ({drawn.width} px; enlarged: {large})')
    for picture, question in (
        (shipped, "what is left of the balloon?"),
        (shipped, "what color is the balloon?"),
        (path, "how many apples are there?"),
        (path, "what color are the apples?"),
    ):
        print(f"{picture}: {question} {engine.ask(open_image(picture), question)}")
    print(f"done in {time.monotonic() - started:.1f} s")


def serve(
    host: Annotated[str, arg(help="address to listen on; 0.0.0.0: every one of this machine")] = "127.0.0.1",
    port: Annotated[int, arg(help="0: any free one")] = 8000,
    name: Annotated[str | None, arg(help="what clients call the model; default: the last part of --model")] = None,
    alias: Annotated[tuple[str, ...], arg(help="further names of the model, such as gpt-image-1")] = (),
    slots: Annotated[int, arg(help="rows of the batch; a guided drawing needs two; 0: by model and memory")] = 0,
    positions: Annotated[int, arg(help="positions of a row, prompt and answer; 0: the model's, up to 4096")] = 0,
    api_keys: Annotated[Path | None, arg(help="file with API keys, one a line; also OPENJANUS_API_KEY")] = None,
    allow_host: Annotated[tuple[str, ...], arg(help="further names that the Host header may have")] = (),
    remote_pictures: Annotated[bool, arg(help="load pictures by http(s), from public addresses only")] = False,
    log_prompts: Annotated[bool, arg(help="write what users say into the log")] = False,
    grace_seconds: Annotated[float, arg(help="for running requests, after SIGTERM")] = 30.0,
    engine: Annotated[Literal["embedded", "vllm", "ray"], arg(help="who computes; docs/vllm.md")] = "embedded",
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    fleet: FleetOptions = FleetOptions(),  # noqa: B008
    model: Model = "nano",
    revision: Revision = None,
    as_configured: AsConfigured = False,
    device: Device = "auto",
    weights: Weights = "auto",
    threads: Threads = 0,
) -> None:
    """Serve the OpenAI API and a page to talk and draw with, until SIGTERM."""
    from openjanus.serve.server import ServerSettings, run

    settings = ServerSettings(
        host, port, name or Path(model).name, alias, slots, positions, api_keys, allow_host, remote_pictures,
        log_prompts, grace_seconds, limits,
    )  # fmt: skip
    if engine == "embedded":
        run(lambda: _engine(model, device, weights, threads, revision, as_configured), settings)
    elif engine == "vllm":
        from openjanus.fleet.command import server_command

        if device != "auto" or threads or as_configured:
            raise ValueError("--device, --threads and --as-configured are not for --engine vllm: see --fleet.vllm")
        command = server_command(model, revision, weights, settings, fleet)
        console.print(f"[dim]{escape(str(command))}[/dim]")
        command.become()
    else:
        from openjanus.fleet.ray_serve import EngineSource, run_replicas

        run_replicas(EngineSource(model, device, weights, threads, revision, as_configured), settings, fleet.replicas)


def train(
    recipe: Recipe,
    overrides: Overrides = (),
    out: Annotated[Path | None, arg(help="folder of the run; default runs/RECIPE")] = None,
    stop_after: Annotated[int | None, arg(help="stop after this many steps; the same command goes on")] = None,
    device: Device = "auto",
    dtype: Annotated[str, arg(help="autocast dtype: auto, float32, bfloat16")] = "auto",
    threads: Threads = 0,
) -> None:
    """Train a recipe, or go on where it stopped. Without overrides, gives the bundled model's recipe again."""
    from openjanus.recipes import configure
    from openjanus.recipes.evaluators import evaluators_of, keep_result
    from openjanus.training.run import train as train_run

    if dtype not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"dtype {dtype!r}: expected auto, float32 or bfloat16")
    run = configure(recipe, overrides)
    folder = out or Path("runs") / recipe
    _check_folder(folder)
    objective = train_run(run, folder, _runtime(device, dtype, threads), evaluators_of, stop_after)
    console.print(f"{keep_result(run, objective, folder)}")


def tokenize(
    recipe: Recipe,
    overrides: Overrides = (),
    num: Annotated[int, arg(help="how many drawings")] = 80_000,
    source: Annotated[str, arg(help="source whose pictures are drawn")] = "emoji.drawings",
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Turn the drawings that a recipe trains on into image ids, once, before `train`."""
    from openjanus.data.image_ids import tokenize_source
    from openjanus.recipes import configure
    from openjanus.training.janus import JanusTraining, image_ids_file, starting_tokenizer

    run = configure(recipe, overrides)
    if not isinstance(run.task, JanusTraining):
        raise ValueError(f"recipe {recipe!r} trains no Janus: nothing to tokenize")
    target = Path(image_ids_file(run.task, source))
    runtime = _runtime(device, "float32", threads)
    tokenizer = starting_tokenizer(run.task).to(runtime.device)
    with _progress("tokenizing") as progress:
        tokenize_source(tokenizer, source, run.seed, num, target, lambda done: progress(done, num))
    print(target)


def evaluate(
    model: Annotated[Positional[str], arg(metavar="MODEL", help="a checkpoint folder, or nano")] = "nano",
    n: Annotated[int, arg(help="prompts and questions per split")] = 300,
    seed: Annotated[int, arg(help="seed of prompts, questions and drawings")] = 1,
    guidance: float | None = None,
    temperature: float | None = None,
    out: Annotated[Path | None, arg(help="write the figures as JSON")] = None,
    device: Device = "auto",
    weights: Weights = "auto",
    threads: Threads = 0,
) -> None:
    """Score drawings and answers of a model in the emoji world, by split, with the scorer's own error beside them."""
    from openjanus.recipes.evaluators import evaluate_emoji_world

    engine = _engine(model, device, weights, threads)
    options = engine.options(seed=seed, guidance=guidance, temperature=temperature)
    report = evaluate_emoji_world(engine, options, n, seed)
    print(report.text)
    if out is not None:
        report.save(out)


def convert(
    source: Annotated[
        Positional[str], arg(metavar="SOURCE", help="a checkpoint of any format, a hub id, or the run of a Janus")
    ],
    target: Annotated[Positional[Path], arg(metavar="TARGET", help="the folder to write")],
    format: Annotated[str, arg(help="openjanus, official or transformers")] = "openjanus",
    dtype: Annotated[str, arg(help="stored (as they are), float32, bfloat16 or float16")] = "stored",
    revision: Revision = None,
    as_configured: AsConfigured = False,
) -> None:
    """Write a checkpoint again in another format or dtype, or a run's newest state as a checkpoint folder."""
    from openjanus.runtime import DTYPES
    from openjanus.training.janus import JanusObjective
    from openjanus.training.run import restore
    from openjanus.weights import checkpoint
    from openjanus.weights.hub import find_checkpoint

    if dtype not in ("stored", *DTYPES):
        raise ValueError(f"dtype {dtype!r}: expected one of stored, {', '.join(DTYPES)}")
    if format not in checkpoint.FORMATS:
        raise ValueError(f"format {format!r}: expected one of {', '.join(checkpoint.FORMATS)}")
    if (Path(source) / "run.json").is_file():
        objective = restore(Path(source))
        if not isinstance(objective, JanusObjective):
            raise ValueError(f"{source}: not the run of a Janus")
        kept = objective.checkpoint()
    else:
        with _progress("reading") as progress:
            kept = checkpoint.load(find_checkpoint(source, revision), "cpu", None, as_configured, progress)
    _check_folder(target.absolute().parent)
    checkpoint.save(kept, target, DTYPES.get(dtype), format)
    print(target)


COMMANDS: dict[str, Callable[..., None]] = {
    f.__name__: f for f in (generate, ask, chat, demo, serve, train, tokenize, evaluate, convert)
}
BENCHES: dict[str, Callable[..., None]] = {f.__name__: f for f in (bench.draw, bench.answer, bench.serve)}


def main(arguments: list[str] | None = None) -> None:
    """The entry point; exits 2 with one line for what a user can mend."""
    # torch reads this at its first tensor: large ones in huge pages make a step some 3% faster (LOG.md)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        _commands().cli(prog="openjanus", args=arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _commands() -> tyro.extras.SubcommandApp:
    """All commands; `bench` is a group of its own."""
    app, benches = tyro.extras.SubcommandApp(), tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(command)
    for name, command in BENCHES.items():
        benches.command(name=name)(command)
    app.command(benches, name="bench", help="Measure speed here, or a server under load.")
    return app


def _engine(
    model: str, device: str, weights: str, threads: int, revision: str | None = None, as_configured: bool = False
) -> "Engine":
    from openjanus.inference.engine import load

    runtime = _runtime(device, weights, threads)
    with _progress("loading") as progress:
        return load(model, runtime, revision=revision, as_configured=as_configured, progress=progress)


def _runtime(device: str, weights: str, threads: int) -> "Runtime":
    from openjanus.runtime import Runtime

    runtime = Runtime.choose(device, weights, threads)
    console.print(f"[dim]{runtime}[/dim]")
    return runtime


def _check_folder(folder: Path) -> None:
    """Makes the folder and proves that it can be written, before any long work starts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".openjanus-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{folder}: cannot write there ({error.strerror})") from None


class _progress:
    """A bar on stderr: `with _progress("drawing") as report: report(done, total)`."""

    def __init__(self, name: str):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, transient=True)
        self.task = self.bar.add_task(name, total=None)

    def __enter__(self):
        self.bar.start()
        return lambda done, total: self.bar.update(self.task, completed=done, total=total)

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()


if __name__ == "__main__":
    main()
