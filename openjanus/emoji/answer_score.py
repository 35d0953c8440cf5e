"""Exact match of short answers, per kind of question, with the score of the majority baseline."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from openjanus.emoji.words import NUMBER_WORDS

_DIGITS = {word: str(value) for value, word in enumerate(NUMBER_WORDS)}


def normalised(answer: str) -> str:
    """Lower case, single spaces, no final period, no leading article, number words as digits."""
    text = re.sub(r"^(a|an|the) ", "", " ".join(answer.lower().split()).rstrip(". "))
    return " ".join(_DIGITS.get(word, word) for word in text.split())


@dataclass(frozen=True)
class AnswerScore:
    exact: float
    majority: float  # score of always giving the most common true answer of this kind
    n: int


def score_answers(triples: Iterable[tuple[str, str, str]]) -> dict[str, AnswerScore]:
    """Scores per kind of (kind, answer, truth), and "mean" over the kinds."""
    hits: Counter[str] = Counter()
    truths: dict[str, Counter[str]] = {}
    for kind, answer, truth in triples:
        truths.setdefault(kind, Counter())[normalised(truth)] += 1
        hits[kind] += normalised(answer) == normalised(truth)
    scores = {}
    for kind, counts in truths.items():
        n = counts.total()
        scores[kind] = AnswerScore(hits[kind] / n, counts.most_common(1)[0][1] / n, n)
    if scores:
        rows = list(scores.values())
        mean = AnswerScore(sum(r.exact for r in rows) / len(rows), sum(r.majority for r in rows) / len(rows), 0)
        scores["mean"] = AnswerScore(mean.exact, mean.majority, sum(r.n for r in rows))
    return scores


def format_answers(scores: dict[str, AnswerScore]) -> str:
    lines = [f"{'question':12}{'exact':>8}{'majority':>10}{'n':>7}"]
    for kind, score in scores.items():
        lines.append(f"{kind:12}{100 * score.exact:7.1f}%{100 * score.majority:9.1f}%{score.n:7}")
    return "\n".join(lines)
