"""Speculative drawing: several ids of a picture in one forward pass, exactly as probable as one by one.

    sure ids ── a ┃ b  c  d  e      drafts, drawn in the pass before
                ▼   ▼  ▼  ▼  ▼      one forward of the window [a b c d e]: a distribution p behind each
                b?  c? d? e? f      each draft against its p, from the left, until one is refused: b c D
    sure ids ─────────── D ┃ e f .. the next drafts, drawn from the distributions just computed

No second model drafts: a draft comes from the model itself, one pass earlier, when the drafts before it were others
(Jacobi's iteration; arXiv 2410.01699). A draft that was drawn from q stays with probability min(1, p / q); in place of
the first that goes, an id is drawn from max(p - q, 0) (speculative sampling, arXiv 2211.17192). Both together follow p,
whatever q is, so long as the draft is random in nothing but its own noise. p and q are guided distributions.

Each position keeps the noise of its draft from pass to pass, so that similar distributions give the same draft and the
drafts settle (Gumbel coupling, arXiv 2510.24211). It is spent when the draft is judged: the id in its place has other.
"""

import torch
from torch import Tensor

from openjanus.inference.sampling import guide
from openjanus.inference.scheduler import Request
from openjanus.model.janus import Janus
from openjanus.sequence import Kind, collate, num_tokens

MAX_WINDOW = 64


class Speculation:
    """Draws the n pictures of one request; `step` runs a window of each. Pictures advance at a speed of their own.

    window: positions in one pass, which gives 1 to `window` ids. The ids of a picture depend on it, their distribution
    does not; nor do they depend on the pictures beside it.
    """

    def __init__(self, model: Janus, request: Request, window: int):
        if not 2 <= window <= MAX_WINDOW:
            raise ValueError(f"speculative is {window}, expected 0 (off) or a window of 2 to {MAX_WINDOW} ids")
        if request.kind != Kind.GENERATE or request.stop_id is not None:
            raise ValueError("only drawings can be speculative: answers are too short and end at an id of their own")
        self.model, self.request, self.window = model, request, window
        self.branches = len(request.documents)
        self.ids: list[list[int]] = [[] for _ in range(request.n)]
        self.running = list(range(request.n))  # picture i of these has the rows from i * branches of the cache
        # A window may reach beyond the last id.
        self.cache = model.language_model.make_cache(request.num_rows, request.num_positions + window)
        self.num_passes = 0
        shape = (request.n, window, model.config.image_tokenizer.num_ids)
        device = self.cache.keys.device
        self.noise = [torch.empty(0, shape[2]) for _ in range(request.n)]  # of each picture's drafts, on the CPU
        # The last position of a window has no draft: q = 0 there, and id 0 stands in.
        self.draft, self.q = torch.zeros(shape[:2], dtype=torch.int64, device=device), torch.zeros(shape, device=device)

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
        hidden = self.model.language_model(x, position, cache=self.cache.rows(0, B, position, T))
        for row in range(B, self.request.num_rows):
            self.cache.copy(row % B, row, T)
        return hidden[:, -1:].repeat(self.request.n, 1, 1)

    def _run_windows(self, T: int) -> Tensor:
        """The last sure id of each running picture and its first T - 1 drafts -> hidden [R, T, D]."""
        device = self.draft.device
        last = torch.tensor([self.ids[k][-1:] for k in self.running], device=device)
        x = self.model.generation(torch.cat((last, self.draft), dim=1)[:, :T])
        start = [num_tokens(self.request.documents[0]) + len(self.ids[k]) - 1 for k in self.running]
        position = torch.tensor(start, device=device)[:, None] + torch.arange(T, device=device)
        x, position = (part.repeat_interleave(self.branches, dim=0) for part in (x, position))
        return self.model.language_model(x, position, cache=self.cache.rows(0, len(x), position, max(start) + T))

    def _judge(self, hidden: Tensor) -> None:
        """Keeps the drafts that pass, puts an id in place of the first that does not, and draws the next drafts."""
        T, request, generators = hidden.shape[1], self.request, self.request.sampler.generators
        logits = self.model.image_logits(hidden).float().unflatten(0, (-1, self.branches))
        options = request.sampler.options
        logits = guide(logits[:, 0], logits[:, 1], options.guidance) if self.branches == 2 else logits[:, 0]
        p = request.sampler.probabilities(logits)
        chance = torch.stack([torch.rand(self.window, generator=generators[k]) for k in self.running])[:, :T]
        noise = torch.stack([torch.empty(p.shape[-1]).exponential_(generator=generators[k]) for k in self.running])
        num_kept, chosen = verify(p, self.q[:, :T], self.draft[:, :T], chance.to(p.device), noise.to(p.device))
        draft = self.draft.tolist()
        advance = [kept + 1 for kept in num_kept.tolist()]
        for i, (picture, id) in enumerate(zip(self.running, chosen.tolist(), strict=True)):
            new = [*draft[i][: advance[i] - 1], id]
            self.ids[picture] += new[: self._missing(picture)]
        rest = [i for i, picture in enumerate(self.running) if self._missing(picture)]
        self._keep(rest)
        self._draw_drafts(p[rest], [advance[i] for i in rest])

    def _keep(self, places: list[int]) -> None:
        """Lets go of the pictures that are whole; the others move together, their order stays."""
        for target, source in enumerate(places):
            if target != source:
                length = num_tokens(self.request.documents[0]) + len(self.ids[self.running[source]]) - 1
                for branch in range(self.branches):
                    self.cache.copy(source * self.branches + branch, target * self.branches + branch, length)
        self.running = [self.running[place] for place in places]

    def _draw_drafts(self, p: Tensor, advance: list[int]) -> None:
        """p [n, T, V] of the window before, whose picture i moved on by advance[i] ids: q and drafts of the next."""
        n, T, V = p.shape
        num_drafts = self.window - 1
        start = torch.tensor(advance, dtype=torch.int64, device=p.device)[:, None]
        # Beyond the old window nothing is known yet: there, the last distribution of it is as good a guess as any.
        slot = (start + torch.arange(num_drafts, device=p.device)).clamp(max=T - 1)
        q = p.gather(1, slot[..., None].expand(-1, -1, V))
        for picture, step in zip(self.running, advance, strict=True):
            old = self.noise[picture][step:]
            new = torch.empty(num_drafts - len(old), V).exponential_(generator=self.request.sampler.generators[picture])
            self.noise[picture] = torch.cat((old, new))
        self.q, self.draft = p.new_zeros(n, self.window, V), self.draft.new_zeros(n, self.window)
        if n:
            noise = torch.stack([self.noise[picture] for picture in self.running]).to(p.device)
            self.q[:, :num_drafts], self.draft[:, :num_drafts] = q, (q / noise).argmax(dim=-1)


def verify(p: Tensor, q: Tensor, draft: Tensor, chance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Judges drafts [n, T], drawn from q [n, T, V], that should have come from p [n, T, V]: how many stay, [n], and the
    id that follows them, [n] (of no meaning where all T stay).

    chance [n, T]: uniform numbers; noise [n, V]: exponential ones. q is 0 at a position without a draft.
    """
    wanted, had = (x.gather(2, draft[..., None])[..., 0] for x in (p, q))
    stays = (chance * had < wanted) & (had > 0)
    num_kept = stays.long().cumprod(dim=1).sum(dim=1)
    place = num_kept.clamp(max=p.shape[1] - 1)[:, None, None].expand(-1, -1, p.shape[2])
    p, q = p.gather(1, place)[:, 0], q.gather(1, place)[:, 0]
    return num_kept, ((p - q).clamp(min=0) / noise).argmax(dim=-1)
