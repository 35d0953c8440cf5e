"""The true shape of Janus-1.3B, with random bfloat16 weights: through an official folder, into the engine, both doors.

Slow: some minutes and 10 GB of disk and memory.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openjanus.model.janus import Janus, JanusConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.weights import checkpoint
from openjanus.weights.config import Checkpoint
from tests import tiny

# In a process of its own: the peak of memory is that of loading alone. VmHWM counts mapped pages once they are read.
LOAD_AND_RUN = """
import json, sys, torch
from pathlib import Path
from PIL import Image
from openjanus.inference.engine import load
from openjanus.inference.sampling import SamplingOptions
from openjanus.processing.processor import Message
from openjanus.sequence import collate

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

before = peak()
engine = load(sys.argv[1], "cpu", sys.argv[2])
stored = list(engine.model.state_dict().values())  # matrices are buffers in a form of ours
for tensor in stored:
    tensor.sum()  # reads every page
told = {
    "load": peak() - before,
    "weights": sum(tensor.nbytes for tensor in stored),
    "numbers": sum(tensor.numel() for tensor in stored),
}
if sys.argv[3] == "run":
    talk = engine.processor.prompt([Message("user", [Image.new("RGB", (640, 480), "red"), "what is it?"])])
    with torch.inference_mode():
        hidden = engine.model(collate([talk]))
        told["forward"] = list(hidden.shape) + [bool(hidden.isfinite().all())]
    request = engine.drawing("two red apples", SamplingOptions(guidance=5.0))
    request.num_new = 16
    for _ in engine._run([request]):
        pass
    told["ids"] = torch.cat(request.ids).tolist()
    told["picture"] = engine.decode_images(torch.arange(576)[None])[0].size
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    with torch.device("meta"):
        model = Janus(JanusConfig()).to(torch.bfloat16)
    model.to_empty(device="cpu").requires_grad_(False)
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        p.fill_(1) if p.dim() == 1 and name.endswith("weight") else p.normal_(std=0.02)
    path = tmp_path_factory.mktemp("real") / "janus-1.3b"
    processor = tiny.processor(ProcessorConfig(), 576)
    checkpoint.save(Checkpoint(model, processor, {}), path, form="official")
    return path


def in_a_process_of_its_own(*arguments: str) -> dict:
    command = [sys.executable, "-c", LOAD_AND_RUN, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_true_shape_loads_in_little_more_than_its_weights_and_runs(folder) -> None:
    told = in_a_process_of_its_own(str(folder), "bfloat16", "run")
    # the reference sheet, without the pooling head; one matrix is padded to the width of a group
    assert abs(told["numbers"] - 2048 * 24 - 2076.64e6) < 1e4
    assert told["weights"] < 1.1 * 2 * told["numbers"]
    assert told["load"] < 1.2 * told["weights"]
    assert told["forward"][0] == 1 and told["forward"][1] > 576 and told["forward"][2:] == [2048, True]
    assert len(told["ids"]) == 16 and len(set(told["ids"])) > 1 and all(0 <= i < 16384 for i in told["ids"])
    assert told["picture"] == [384, 384]


@pytest.mark.slow
def test_another_dtype_needs_little_more_than_its_own_weights(folder) -> None:
    told = in_a_process_of_its_own(str(folder), "float32", "load")
    assert told["load"] < 1.2 * told["weights"]
