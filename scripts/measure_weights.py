"""Measures what a stored form of the weights costs in quality: logits, greedy choices and scores of the nano model.

    python scripts/measure_weights.py --n 100        # the table of docs/speed.md

Logits are compared along drawings and answers that the float32 model chose greedily.
"""

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from openjanus.emoji import grammar
from openjanus.emoji.splits import stream
from openjanus.emoji.world import render, sample_scene
from openjanus.emoji.world_report import WorldReport
from openjanus.inference.engine import Engine, load
from openjanus.inference.sampling import SamplingOptions
from openjanus.processing.processor import Message
from openjanus.recipes.evaluators import evaluate_emoji_world
from openjanus.sequence import Document, GenerateSpan, Kind, TextSpan, collate, num_tokens

FORMS = ("float32", "bfloat16", "int8", "int4")


def drawings(engine: Engine, num: int, seed: int) -> list[Document]:
    """Captions with what the model draws greedily for them."""
    greedy = SamplingOptions(temperature=0.0, guidance=1.0)
    scenes = [sample_scene("seen", seed, i) for i in range(num)]
    captions = [grammar.caption(scene, stream("seen", seed, i, 1)) for i, scene in enumerate(scenes)]
    prompts = [engine.processor.prompt([Message("user", [caption])], draw=True) for caption in captions]
    ids = engine.generate_ids(captions, greedy).tolist()
    return [[*prompt, GenerateSpan(row)] for prompt, row in zip(prompts, ids, strict=True)]


def answers(engine: Engine, num: int, seed: int) -> list[Document]:
    """Questions about pictures with what the model answers greedily."""
    documents = []
    for i in range(num):
        scene = sample_scene("seen", seed, i)
        message = Message(
            "user", [Image.fromarray(render(scene)), grammar.question(scene, stream("seen", seed, i, 2)).text]
        )
        answer = "".join(engine.chat([message]))
        documents.append([*engine.processor.prompt([message]), TextSpan(engine.processor.text.encode(" " + answer))])
    return documents


@torch.inference_mode()
def logits(engine: Engine, documents: list[Document]) -> Tensor:
    """At every position of the last spans: [positions, V]."""
    rows = []
    for document in documents:
        hidden = engine.model(collate([document]))[0]
        last = document[-1]
        assert isinstance(last, (GenerateSpan, TextSpan))
        is_drawing = isinstance(last, GenerateSpan)
        head = engine.model.heads[Kind.GENERATE if is_drawing else Kind.TEXT]
        rows.append(head(hidden[-num_tokens([last]) - 1 : -1]))
    return torch.cat(rows).float()


def scores(report: WorldReport) -> tuple[float, float]:
    """Shares of accepted drawings and of exact answers (mean over kinds), over all splits."""
    drawn = [share for split in report.drawings.values() for share in split.first.values()]
    exact = [split["mean"].exact for split in report.answers.values()]
    return sum(s.hits for s in drawn) / sum(s.n for s in drawn), sum(exact) / len(exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--n", type=int, default=100, help="drawings and questions a split; 0: no scores")
    parser.add_argument("--documents", type=int, default=32, help="of each face, for the logits")
    parser.add_argument("--seed", type=int, default=3)
    a = parser.parse_args()
    exact = load(a.model, "cpu", "float32")
    documents = {"image": drawings(exact, a.documents, a.seed), "text": answers(exact, a.documents, a.seed)}
    wanted = {face: logits(exact, some) for face, some in documents.items()}
    print(
        "| weights | image logits: error, same choice | text logits: error, same choice | drawings accepted | answers |"
    )
    print("|---|---|---|---|---|")
    for form in FORMS:
        engine = load(a.model, "cpu", form)
        cells = []
        for face, some in documents.items():
            got = logits(engine, some)
            error = (got - wanted[face]).square().mean().sqrt() / wanted[face].std()
            same = (got.argmax(-1) == wanted[face].argmax(-1)).double().mean()
            cells.append(f"{error:.4f}, {same:.1%}")
        if a.n:
            cells += [f"{share:.1%}" for share in scores(evaluate_emoji_world(engine, engine.options(), a.n, a.seed))]
        print(f"| {form} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
