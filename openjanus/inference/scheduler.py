"""One running batch for both faces: drawings and answers join and leave between steps.

    waiting ─► prefill, chunk by chunk ─► n rows for each document ─► one position a step ─► finished
                                          └─ all running requests, of both kinds, in one forward ─┘

A request owns rows of one KV cache. The running rows are the first of the cache, without gaps, so that a step reads it
in place; when a request leaves, the last rows move into its places. A drawing with guidance owns several rows for each
picture, one for each of its documents, that are always stepped together. What a request gets does not depend on its
company: every row attends to itself alone, each of its pictures draws its noise from a generator of its own, and the
kernels (body.py) give a row the same last bits whatever rows are beside it.
Nor does a fault reach its company: a request that fails on its way in, or when its ids are chosen, leaves with its
`error` set. A step of all that fails (memory) has changed nothing yet: the newest request leaves, the others repeat it.

If the generation eye remembers the ids of a picture, it does so in a second, small cache (pictures.py), whose places
are taken, moved and freed with the rows.

A GPU is kept busy only if nobody waits for it. So ids and positions stay on the device, in tensors that only joining
and leaving make anew, and a step copies at most once to the host: the ids of all answers, at its end.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from openjanus.inference.pictures import Pictures
from openjanus.inference.request import Request
from openjanus.inference.sampling import guide
from openjanus.model.janus import Janus
from openjanus.sequence import Embedded, Inputs, Kind, collate, num_tokens

# Positions of a prompt that are computed at once. Prompts take so many between two steps of the running batch, or less
# than a chunk more.
CHUNK_TOKENS = 256


@dataclass
class _Prefill:
    """A request on its way in: what is embedded of it, and how much of that the cache holds."""

    request: Request
    x: Tensor  # [B, T, D], a row for each document
    done: int = 0


@dataclass
class _Part:
    """The running requests of one kind, and where their rows are: it holds until somebody joins, leaves or moves.

    rows: of the cache, ascending. places: for each guidance row the place among these rows, [sequences]; a sequence
    with fewer guidance rows than others repeats its last one, which is exact: r + s (r - r) is r. scales: for each
    guidance row but the last, [sequences, 1]. sequence: for each of the rows, whose id it continues with.
    """

    requests: list[Request]
    rows: Tensor
    places: list[Tensor]
    scales: list[Tensor]
    sequence: Tensor

    @classmethod
    def of(cls, requests: list[Request], device: torch.device) -> "_Part":
        rows = sorted(row for request in requests for row in request.rows)
        place = {row: i for i, row in enumerate(rows)}
        num = max(len(r.documents) for r in requests)
        places = [[place[row] for r in requests for row in r.rows_of(k)] for k in range(num)]
        scales = [[[*r.scales, *[1.0] * num][k] for r in requests for _ in range(r.n)] for k in range(num - 1)]
        sequence_of = {i: sequence for each in places for sequence, i in enumerate(each)}
        return cls(
            requests,
            torch.tensor(rows, device=device),
            [torch.tensor(each, device=device) for each in places],
            [torch.tensor(each, dtype=torch.float32, device=device)[:, None] for each in scales],
            torch.tensor([sequence_of[i] for i in range(len(rows))], device=device),
        )

    def choose(self, logits: Tensor) -> tuple[Tensor, list[Tensor | Exception]]:
        """Guided logits [sequences, V] -> the next id of each row, and what each request gets: ids [n] or its fault."""
        outcomes: list[Tensor | Exception] = []
        chosen = []
        for request, own in zip(self.requests, logits.split([r.n for r in self.requests]), strict=True):
            try:
                outcomes.append(request.sampler.choose(own))
            except Exception as error:
                outcomes.append(error)
            chosen.append(outcomes[-1] if isinstance(outcomes[-1], Tensor) else self.rows.new_zeros(request.n))
        return torch.cat(chosen)[self.sequence], outcomes


class Scheduler:
    """The decode loop. `step` advances everything by one position; it is not thread-safe: one thread steps and submits.

    num_rows, num_positions: size of the KV cache, which bounds what runs together and how long it may get.
    text_logits: hidden [R, D] -> logits [R, V], without what an answer must not hold.
    """

    def __init__(
        self,
        model: Janus,
        num_rows: int,
        num_positions: int,
        text_logits: Callable[[Tensor], Tensor] | None = None,
        chunk_tokens: int = CHUNK_TOKENS,
    ):
        self.model, self.chunk_tokens = model, chunk_tokens
        self.heads: dict[Kind, Callable[[Tensor], Tensor]] = {**model.heads}
        if text_logits is not None:
            self.heads[Kind.TEXT] = text_logits
        self.cache = model.language_model.make_cache(num_rows, num_positions)
        self.device = self.cache.keys.device
        self.pictures = Pictures(model.generation, num_rows, self.device)
        self.tokens = torch.zeros(num_rows, dtype=torch.int64, device=self.device)  # the next id to embed, by row
        self.length = [0] * num_rows  # positions that each row remembers
        self.position = torch.zeros_like(self.tokens)  # the same on the device
        self.owner: list[tuple[Request, int]] = []  # of each running row: the request, and which of its rows
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.unread: list[Request] = []  # answers that got an id in this step
        self.prefill: _Prefill | None = None
        self._plan: dict[Kind, _Part] | None = None

    def submit(self, request: Request) -> Request:
        """Puts a request into the queue. Raises ValueError at once for one that can never fit."""
        if request.num_rows > self.cache.num_rows:
            raise ValueError(
                f"the request needs {request.num_rows} rows at once (n {request.n}, {len(request.documents)} rows each)"
                f", but there are {self.cache.num_rows}: ask for fewer pictures at a time"
            )
        if request.num_positions > self.cache.num_positions:
            raise ValueError(
                f"the prompt takes {num_tokens(request.documents[0])} positions, the answer up to {request.num_new}, "
                f"but there are {self.cache.num_positions}: shorten it"
            )
        self.waiting.append(request)
        return request

    @torch.inference_mode()
    def step(self) -> bool:
        """Continues every running row by one position, then prefills a chunk of what waits. False: nothing is left."""
        self._drop_cancelled()
        if self.running:
            self._decode()
        room = self.chunk_tokens
        while room > 0 and (self.prefill or self._first_fits()):
            request = self.prefill.request if self.prefill else self.waiting[0]
            try:
                if self.prefill is None:
                    self._admit()
                room -= self._prefill_chunk()
            except Exception as error:
                self._fail(request, error)
        self._read_answers()
        return bool(self.running or self.waiting or self.prefill)

    def run(self) -> None:
        """Steps until nothing is left."""
        while self.step():
            pass

    def skip_to(self, length: int) -> None:
        """Pretends that all rows remember so many positions: how long a step takes does not depend on what they are."""
        self.length = [length] * self.cache.num_rows
        self.position.fill_(length)

    def _drop_cancelled(self) -> None:
        for request in [r for r in self.waiting if r.cancelled]:
            self.waiting.remove(request)
            request.finished = True
        if self.prefill is not None and self.prefill.request.cancelled:
            self.prefill.request.finished = True
            self.prefill = None
        for request in [r for r in self.running if r.cancelled]:
            self._leave(request)

    def _fail(self, request: Request, error: Exception) -> None:
        """Takes a request out, wherever it is."""
        request.error, request.finished = error, True
        if self.prefill is not None and self.prefill.request is request:
            self.prefill = None
        if request in self.running:
            self._leave(request)

    def _first_fits(self) -> bool:
        """Whether there are rows for the first waiting request: nobody overtakes."""
        return bool(self.waiting) and len(self.owner) + self.waiting[0].num_rows <= self.cache.num_rows

    def _admit(self) -> None:
        """Begins the first waiting request."""
        request = self.waiting.popleft()
        self.prefill = _Prefill(request, self.model.embed(collate(request.documents).to(self.device)))

    def _prefill_chunk(self) -> int:
        """Computes a chunk of the prompt, in the rows behind the running ones; returns its positions. A prompt that is
        whole joins the batch. Only the prompt decides where its chunks end: a library may compute one of another length
        in another way, and the last bits would differ."""
        prefill = self.prefill
        assert prefill is not None
        B, T, _ = prefill.x.shape
        start, stop = prefill.done, min(prefill.done + self.chunk_tokens, T)
        position = torch.arange(start, stop, device=self.device).expand(B, -1)
        first = len(self.owner)
        rows = self.cache.rows(first, first + B, position, stop)
        hidden = self.model(Embedded(prefill.x[:, start:stop], position), rows)
        prefill.done = stop
        if stop == T:
            self.prefill = None
            self._join(prefill.request, hidden[:, -1], T)
        return stop - start

    def _join(self, request: Request, hidden: Tensor, length: int) -> None:
        """Shares the prefill among the n sequences of a request and chooses their first ids. hidden: [B, D]"""
        n, first = request.n, len(self.owner)
        for target in range(request.num_rows - 1, 0, -1):  # from the end: no row is overwritten before it is copied
            if target // n != target:
                self.cache.copy(first + target // n, first + target, length)
        request.rows = list(range(first, first + request.num_rows))
        self.owner += [(request, i) for i in range(request.num_rows)]
        for row in request.rows:
            self.length[row] = length
        self.position[first : first + request.num_rows] = length
        if request.kind == Kind.GENERATE:
            self.pictures.join(request)
        self.running.append(request)
        self._plan = None
        logits = guide(self.heads[request.kind](hidden).split(1), request.scales)  # [1, V]
        ids = request.sampler.choose(logits.expand(n, -1))
        self.tokens[first : first + request.num_rows] = ids.repeat(len(request.documents))
        self._give(request, ids)

    def _decode(self) -> None:
        plan = self._plan = self._plan or self._make_plan()
        try:
            logits = self._next_logits(plan)
        except Exception as error:
            self._fail(self.running[-1], error)
            return
        B = len(self.owner)
        self.length[:B] = [length + 1 for length in self.length[:B]]
        self.position[:B] += 1
        got: list[tuple[Request, Tensor | Exception]] = []
        for kind, part in plan.items():
            self.tokens[part.rows], outcomes = part.choose(logits[kind])
            got += zip(part.requests, outcomes, strict=True)
        for request, outcome in got:
            if isinstance(outcome, Tensor):
                self._give(request, outcome)
            else:
                self._fail(request, outcome)

    def _next_logits(self, plan: "dict[Kind, _Part]") -> dict[Kind, Tensor]:
        """The forward of all running rows: guided logits [sequences, V] of each kind. It can be repeated: all that it
        changes is the cache behind what the rows remember."""
        B = len(self.owner)
        position = self.position[:B, None]
        places = {kind: part.rows for kind, part in plan.items()}
        continued = self.pictures.continued(self.tokens, self.position, self.length)
        inputs = Inputs(tokens=self.tokens[:B, None], position=position, places=places, continued=continued)
        rows = self.cache.rows(0, B, position, max(self.length[:B]) + 1)
        hidden = self.model(inputs, rows)[:, 0]
        guided = {}
        for kind, part in plan.items():
            logits = self.heads[kind](hidden if len(part.rows) == B else hidden[part.rows])
            guided[kind] = guide([logits[places] for places in part.places], part.scales)
        return guided

    def _make_plan(self) -> "dict[Kind, _Part]":
        self.pictures.find_rows()
        return {
            kind: _Part.of(requests, self.device)
            for kind in (Kind.GENERATE, Kind.TEXT)
            if (requests := [r for r in self.running if r.kind == kind])
        }

    def _give(self, request: Request, ids: Tensor) -> None:
        """Hands new ids [n] to a request; a drawing leaves when these were the last."""
        request.ids.append(ids)
        if request.kind == Kind.TEXT:
            self.unread.append(request)
        elif len(request.ids) == request.num_new:
            self._leave(request)

    def _read_answers(self) -> None:
        """Copies the ids that answers got in this step to the host, all at once; answers that are whole leave."""
        requests, self.unread = self.unread, []
        if not requests:
            return
        for request, id in zip(requests, torch.cat([r.ids[-1] for r in requests]).tolist(), strict=True):
            request.text_ids.append(id)
            if len(request.ids) == request.num_new or id == request.stop_id:
                self._leave(request)

    def _leave(self, request: Request) -> None:
        request.finished = True
        self.running.remove(request)
        self.pictures.leave(request)
        for row in sorted(request.rows, reverse=True):
            self._free(row)
        request.rows = []
        self._plan = None

    def _free(self, row: int) -> None:
        """Moves the last running row into a free one, and a prefill behind the running rows down by one."""
        last = len(self.owner) - 1
        owner = self.owner.pop()
        if row != last:
            self.owner[row] = owner
            request, index = owner
            request.rows[index] = row
            self.length[row] = self.length[last]
            self.position[row] = self.position[last]
            self.tokens[row] = self.tokens[last]
            self.cache.copy(last, row, self.length[last])
        if self.prefill is not None and self.prefill.done:
            for source in range(last + 1, last + 1 + len(self.prefill.x)):
                self.cache.copy(source, source - 1, self.prefill.done)
