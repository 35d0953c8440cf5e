"""The output of `openjanus bench draw` and `openjanus bench answer`."""

import json
from statistics import median

from openjanus.bench.measure import Result, Times
from openjanus.sequence import Kind


def figures(result: Result) -> dict[str, float | int | list[float]]:
    """The measurements of a drawing or an answer by name; names of the peer's begin with `peer_`."""
    drawing = result.case.kind == Kind.GENERATE
    numbers: dict[str, float | int | list[float]] = {}
    for name, times in result.times.items():
        prefix = "" if name == "openjanus" else "peer_"
        if drawing:
            numbers[f"{prefix}seconds_per_image"] = times.whole(result.num_ids) / result.case.n
            numbers[f"{prefix}decode_seconds"] = median(times.decode)
        else:
            numbers[f"{prefix}tokens_per_second"] = 1 / times.step[0]
        numbers[f"{prefix}prefill_seconds"] = median(times.prefill)
        numbers[f"{prefix}step_seconds"] = times.step
        numbers[f"{prefix}peak_bytes"] = result.peak[name]
    if "transformers" in result.times:
        ours, peer = result.times["openjanus"], result.times["transformers"]
        if drawing:
            numbers["ratio"] = peer.whole(result.num_ids) / ours.whole(result.num_ids)
        else:
            numbers["ratio"] = peer.step[0] / ours.step[0]
            numbers["prefill_ratio"] = median(peer.prefill) / median(ours.prefill)
    numbers["bandwidth_bytes_per_second"] = result.bandwidth
    numbers["bandwidth_share"] = result.share
    return numbers


def table(result: Result) -> str:
    """A line for each side, the ratio, and the share of the memory bandwidth."""
    case, numbers = result.case, figures(result)
    lines = [f"{case.source.model or case.shape}, {case.n} at once, guidance {case.guidance:g}"]
    for name, times in result.times.items():
        lines.append(f"  {name:12} {_line(result, times)}, peak {result.peak[name] / 1e9:.2f} GB")
    if "ratio" in numbers:
        lines.append(f"  {numbers['ratio']:.1f} times faster than transformers")
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
    """The measurements as one line of JSON."""
    numbers = {name: round(value, 6) if isinstance(value, float) else value for name, value in figures(result).items()}
    return json.dumps(numbers)
