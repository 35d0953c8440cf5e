"""What `openjanus bench draw` and `openjanus bench answer` print."""

import json
from statistics import median

from openjanus.bench.measure import Result, Times
from openjanus.sequence import Kind


def figures(result: Result) -> dict[str, float | int | list[float]]:
    """The figures of a drawing, or of an answer; those of the peer begin with `peer_`."""
    drawing = result.case.kind == Kind.GENERATE
    told: dict[str, float | int | list[float]] = {}
    for name, times in result.times.items():
        prefix = "" if name == "openjanus" else "peer_"
        if drawing:
            told[f"{prefix}seconds_per_image"] = times.whole(result.num_ids) / result.case.n
            told[f"{prefix}decode_seconds"] = median(times.decode)
        else:
            told[f"{prefix}tokens_per_second"] = 1 / times.step[0]
        told[f"{prefix}prefill_seconds"] = median(times.prefill)
        told[f"{prefix}step_seconds"] = times.step
        told[f"{prefix}peak_bytes"] = result.peak[name]
    if "transformers" in result.times:
        ours, theirs = result.times["openjanus"], result.times["transformers"]
        if drawing:
            told["ratio"] = theirs.whole(result.num_ids) / ours.whole(result.num_ids)
        else:
            told["ratio"] = theirs.step[0] / ours.step[0]
            told["prefill_ratio"] = median(theirs.prefill) / median(ours.prefill)
    told["bandwidth_bytes_per_second"] = result.bandwidth
    told["bandwidth_share"] = result.share
    return told


def table(result: Result) -> str:
    """A line for each side, the ratio, and what memory allows."""
    case, told = result.case, figures(result)
    lines = [f"{case.source.model or case.shape}, {case.n} at once, guidance {case.guidance:g}"]
    for name, times in result.times.items():
        lines.append(f"  {name:12} {_line(result, times)}, peak {result.peak[name] / 1e9:.2f} GB")
    if "ratio" in told:
        lines.append(f"  {told['ratio']:.1f} times faster than transformers")
    lines.append(f"  {result.share:.0%} of {result.bandwidth / 1e9:.0f} GB/s, probed in the same run")
    return "\n".join(lines)


def _line(result: Result, times: Times) -> str:
    steps = " / ".join(f"{1e3 * seconds:.1f}" for seconds in times.step)
    text = f"prefill {median(times.prefill):.3g} s, a step {steps} ms (short / middle / full cache)"
    if result.case.kind == Kind.TEXT:
        return f"{text}, {1 / times.step[0]:.1f} tokens/s"
    image = times.whole(result.num_ids) / result.case.n
    return f"{text}, decoding {median(times.decode):.3g} s, {image:.3g} s an image"


def as_json(result: Result) -> str:
    """One line."""
    told = {name: round(value, 6) if isinstance(value, float) else value for name, value in figures(result).items()}
    return json.dumps(told)
