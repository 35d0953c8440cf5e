"""A recipe from its first step to its results: the same for the command line and for Python."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from openjanus.flops import product_speeds, step_flops
from openjanus.model.janus import Janus
from openjanus.recipes import configure
from openjanus.recipes.cards import write_card
from openjanus.recipes.evaluators import evaluators_of, keep_result
from openjanus.recipes.own_data import describe
from openjanus.recipes.report import write_run_report
from openjanus.runtime import Runtime
from openjanus.training import checkpoint
from openjanus.training.janus import JanusTraining
from openjanus.training.loop import BEST, Evaluator, Training
from openjanus.training.metrics import MFU
from openjanus.training.processes import ONE, OneProcess
from openjanus.training.run import Run, make_training, restore
from openjanus.training.run import train as train_run

GPU_POSITIONS, CPU_POSITIONS = 8192, 512  # of the products that the machine's speed is measured by


def train_in(
    run: Run,
    folder: Path,
    runtime: Runtime,
    say: Callable[[str], None],
    stop_after: int | None = None,
    processes: OneProcess = ONE,
) -> Sequence[Path]:
    """Trains a run in its folder, or resumes it there. Returns the paths of its results: the model, or the adapter of
    LoRA; the same of the step with the least held-out loss, if that was not the last one; the report, if the data was
    the user's. say: gets lines about what is trained. Of several processes, the first keeps the results, and the others
    return none."""

    def begin(training: Training) -> Sequence[Evaluator]:
        for line in [] if processes.rank else describe(run, training):
            say(line)
        _log_mfu(training, runtime, processes.size)
        return evaluators_of(training)

    trained = train_run(run, folder, runtime, begin, stop_after, processes)
    if processes.rank:
        return []
    if processes.size > 1:  # each has only a part of the model: read it from the checkpoint
        trained = make_training(run)
        trained.checkpoint = restore(folder)
    results = [_kept(run, trained, folder)]
    best = checkpoint.latest(folder / BEST)
    if trained.checkpoint and best and int(best.name) < sum(stage.num_steps for stage in run.stages):
        checkpoint.restore_model(best, trained.checkpoint.model, trained.kept_names(run.stages))
        results.append(_kept(run, trained, folder, BEST))
        say(f"the least held-out loss was at step {int(best.name):,}: {results[-1]}")
    if isinstance(run.task, JanusTraining) and run.task.data:
        results.append(folder / "report.html")
        write_run_report(results[-1], run, folder)
    return results


def _log_mfu(training: Training, runtime: Runtime, num_processes: int) -> None:
    """Lets the log of a Janus show the share of the machine's plain products that is useful work (flops.py)."""
    model, sizes = training.model, training.sizes
    if isinstance(model, Janus):
        positions = GPU_POSITIONS if runtime.device.type == "cuda" else CPU_POSITIONS
        speed, _ = product_speeds(model, positions, positions, runtime)
        training.sizes = lambda batch: {**sizes(batch), MFU: step_flops(model, [batch]) / speed / num_processes}


def _kept(run: Run, trained: Training, folder: Path, part: str = "") -> Path:
    """The result of a run, in `part` of its folder, with a model card."""
    result = keep_result(trained, folder, part)
    if result != folder:
        write_card(run, result)
    return result


def train(
    start: str,
    data: str | Path,
    out: str | Path,
    recipe: str = "finetune.lora",
    overrides: Iterable[str] = (),
    device: str = "auto",
    dtype: str = "auto",
    threads: int = 0,
) -> Path:
    """Fine-tunes a model on data of your own, in both directions; returns the folder of the adapter or of the model.

        openjanus.train("nano", "my-data", "runs/mine", overrides=["epochs=3"])

    start: as `openjanus.load` takes it. data: a folder or a file (openjanus/readers). out: the run's folder; the same
    call resumes a run there. overrides: as on the command line, such as "stages.tune.lr=1e-3".
    Raises ValueError for data that cannot be used, and for unknown recipes and keys.
    """
    run = configure(recipe, [f"start={start}", f"data={data}", *overrides])
    return train_in(run, Path(out), Runtime.choose(device, dtype, threads), print)[0]
