"""Speculative drawing: several ids of a picture in one forward pass, the same that come one by one.

    sure ids ── a ┃ b  c  d  e      drafts: what the pass before chose, or guessed
                ▼   ▼  ▼  ▼  ▼      one forward of the window [a b c d e], and a choice behind each position
                b   c  D  e' f'     while a draft is what was chosen in its place, the next choice is right, too: b c D
    sure ids ─────────── D ┃ e' f'  the next drafts; new positions are chosen from the last distribution that is known

No second model drafts: a draft comes from the model itself, one pass earlier, when the drafts before it were others
(Jacobi's iteration; arXiv 2410.01699). Each position has noise of its own, drawn once: that of the plain loop. So the
ids are a function of the noise, with or without drafts, and similar distributions choose the same draft (Gumbel
coupling, arXiv 2510.24211). The papers instead keep a draft of q with probability min(1, p / q) and are exact in
distribution alone: hardly fewer passes (LOG.md), but then a seed stands for another picture at every window.
"""

import torch
from torch import Tensor

from openjanus.inference.pictures import continue_pictures
from openjanus.inference.quantisation import MAX_DECODE
from openjanus.inference.request import Request
from openjanus.inference.sampling import choose, guide
from openjanus.inference.scheduler import CHUNK_TOKENS
from openjanus.model.janus import Janus
from openjanus.sequence import Embedded, Inputs, Kind, collate, num_tokens

MAX_WINDOW = 64


def check_window(window: int) -> None:
    """Raises ValueError for a window that no drawing can have."""
    if not 2 <= window <= MAX_WINDOW:
        raise ValueError(f"speculative is {window}, expected 0 (off) or a window of 2 to {MAX_WINDOW} ids")


class Speculation:
    """Draws the n pictures of one request; `step` runs a window of each. Pictures advance at a speed of their own.

    window: positions in one pass, which gives 1 to `window` ids.
    """

    def __init__(self, model: Janus, request: Request, window: int):
        check_window(window)
        if request.kind != Kind.GENERATE or request.stop_id is not None:
            raise ValueError("only drawings can be speculative: answers are too short and end at an id of their own")
        self.model, self.request, self.window = model, request, window
        self.branches = len(request.documents)
        self.ids: list[list[int]] = [[] for _ in range(request.n)]
        self.running = list(range(request.n))  # picture i of these has the rows from i * branches of the cache
        # A window may reach beyond the last id.
        self.cache = model.language_model.make_cache(request.num_rows, request.num_positions + window)
        self.picture_cache = model.generation.make_cache(request.n)  # picture i of `running` has place i
        self.num_passes = 0
        # Of each picture's next `window` ids, on the CPU. The first pass has no drafts.
        self.noise = [torch.empty(0, model.config.generation.num_ids) for _ in range(request.n)]
        self.draft = torch.zeros(request.n, 0, dtype=torch.int64, device=self.cache.keys.device)
        self._draw_noise()

    @torch.inference_mode()
    def step(self) -> bool:
        """Prefills the prompt, then each time runs the windows. False: every picture is whole."""
        if self.num_passes == 0:
            hidden = self._prefill()
        else:
            hidden = self._run_windows(min(self.window, max(self._missing(k) for k in self.running)))
        self.num_passes += 1
        self._judge(hidden)
        done = min(len(ids) for ids in self.ids)
        for t in range(len(self.request.ids), done):
            self.request.ids.append(torch.tensor([ids[t] for ids in self.ids], device=hidden.device))
        self.request.finished = not self.running
        return bool(self.running)

    def _missing(self, picture: int) -> int:
        return self.request.num_new - len(self.ids[picture])

    def _prefill(self) -> Tensor:
        """-> hidden [n * branches, 1, D] at the prompt's last position, which all pictures share."""
        x = self.model.embed(collate(self.request.documents).to(self.cache.keys.device))
        B, T, _ = x.shape
        position = torch.arange(T, device=x.device).expand(B, -1)
        hidden = self._forward(x, position, T, CHUNK_TOKENS)
        for row in range(B, self.request.num_rows):
            self.cache.copy(row % B, row, T)
        return hidden[:, -1:].repeat(self.request.n, 1, 1)

    def _run_windows(self, T: int) -> Tensor:
        """The last sure id of each running picture and its first T - 1 drafts -> hidden [R, T, D]."""
        device = self.draft.device
        last = torch.tensor([self.ids[k][-1:] for k in self.running], device=device)
        ids = torch.cat((last, self.draft), dim=1)[:, :T]
        known = [len(self.ids[k]) - 1 for k in self.running]  # the index of each picture's last sure id
        index = torch.tensor(known, device=device)[:, None] + torch.arange(T, device=device)
        all_ids = torch.arange(ids.numel(), device=device)
        inputs = Inputs(tokens=ids, position=index, places={Kind.GENERATE: all_ids})
        if self.picture_cache is not None:
            eye, reach = self.model.generation, max(known) + T
            inputs.continued = continue_pictures(eye, self.picture_cache, ids, index, reach, all_ids)
        x = self.model.embed(inputs)
        start = num_tokens(self.request.documents[0])
        x, position = (part.repeat_interleave(self.branches, dim=0) for part in (x, start + index))
        return self._forward(x, position, start + max(known) + T, MAX_DECODE)

    def _forward(self, x: Tensor, position: Tensor, reach: int, piece: int) -> Tensor:
        """x [B, T, D] -> hidden [B, T, D], in pieces of so many positions: as the plain loop computes them. reach: 1 +
        the largest position."""
        T, hidden = x.shape[1], []
        for start in range(0, T, piece):
            stop = min(start + piece, T)
            rows = self.cache.rows(0, len(x), position[:, start:stop], reach - T + stop)
            hidden.append(self.model(Embedded(x[:, start:stop], position[:, start:stop]), rows))
        return torch.cat(hidden, dim=1)

    def _judge(self, hidden: Tensor) -> None:
        """Takes the choices that follow right drafts, and makes the rest of them the next drafts."""
        T, sampler = hidden.shape[1], self.request.sampler
        logits = self.model.heads[Kind.GENERATE](hidden.flatten(0, 1)).unflatten(0, (-1, self.branches, T))
        p = sampler.probabilities(guide(logits.unbind(1), self.request.scales))
        chosen = choose(p, self._noise(T))
        advance = count_right(self.draft[:, : T - 1], chosen)
        for picture, ids, right in zip(self.running, chosen.tolist(), advance.tolist(), strict=True):
            self.ids[picture] += ids[:right][: self._missing(picture)]
            self.noise[picture] = self.noise[picture][right:]
        rest = [i for i, picture in enumerate(self.running) if self._missing(picture)]
        self._keep(rest)
        if rest:
            self._draw_noise()
            # Beyond the old window nothing is known yet: there, its last distribution is as good a guess as any.
            slot = (advance[rest][:, None] + torch.arange(self.window - 1, device=p.device)).clamp(max=T - 1)
            guess = p[rest].gather(1, slot[..., None].expand(-1, -1, p.shape[2]))
            self.draft = choose(guess, self._noise(self.window - 1))

    def _noise(self, T: int) -> Tensor:
        """Of the next T ids of the running pictures: [R, T, V]."""
        return torch.stack([self.noise[k][:T] for k in self.running]).to(self.draft.device)

    def _draw_noise(self) -> None:
        """Fills up the noise of the running pictures; a generator gives it in the order of the plain loop."""
        for k in self.running:
            old, generator = self.noise[k], self.request.sampler.generators[k]
            missing = range(self.window - len(old))
            new = [torch.empty(1, old.shape[1]).exponential_(generator=generator) for _ in missing]
            self.noise[k] = torch.cat((old, *new))

    def _keep(self, places: list[int]) -> None:
        """Lets go of the pictures that are whole; the others move together, their order stays."""
        for target, source in enumerate(places):
            if target != source:
                length = num_tokens(self.request.documents[0]) + len(self.ids[self.running[source]]) - 1
                for branch in range(self.branches):
                    self.cache.copy(source * self.branches + branch, target * self.branches + branch, length)
                if self.picture_cache is not None:
                    self.picture_cache.copy(source, target, len(self.ids[self.running[source]]) - 1)
        self.running = [self.running[place] for place in places]


def count_right(draft: Tensor, chosen: Tensor) -> Tensor:
    """draft [R, T - 1], chosen [R, T] -> how many of the chosen ids have nothing but right ids before them: [R]."""
    return 1 + (draft == chosen[:, :-1]).long().cumprod(dim=1).sum(dim=1)
