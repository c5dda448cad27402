"""Random decode cases as torch tensors, on any device, with their answers in float32: the shapes and tolerances of
FlashMLA's public test of sparse FP8 decode for V4, made again from their description. Needs torch.

q ~ N(0, 1) and keys ~ N(0, 1) / 10, both cut at 1; softmax scale 512^-0.55; lengths of sequences around s_k; lists are
permutations without repeats, shorter sequences end in -1; pages lie shuffled; rows that no list names hold NaN bytes;
every tensor has strides of its own; sinks are a third +inf, a third -inf.
"""
import itertools
import math

import torch

DIM, FP8_DIM, DATA_BYTES, RECORD_BYTES, PAGE_ALIGN = 512, 448, 576, 584, 576
SCALE = 512**-0.55


def quantize(rows):
    """Records of [n, 512] f32 rows: data [n, 576] u8, scales [n, 8] u8."""
    groups = rows[:, :FP8_DIM].reshape(-1, 7, 64)
    exponent = torch.ceil(torch.log2(groups.abs().amax(-1).clamp(min=1e-4) / 448))
    codes = (groups / torch.exp2(exponent)[..., None]).to(torch.float8_e4m3fn).view(torch.uint8).reshape(-1, FP8_DIM)
    tail = rows[:, FP8_DIM:].to(torch.bfloat16).contiguous().view(torch.uint8)
    scales = torch.zeros(len(rows), 8, dtype=torch.uint8, device=rows.device)
    scales[:, :7] = (exponent + 127).to(torch.uint8)
    return torch.cat([codes, tail], 1), scales


class Pool:
    """A paged cache whose every row has values; planes() are views of its two halves."""

    def __init__(self, n_pages, page_rows, device):
        self.page_rows = page_rows
        stride = math.ceil(page_rows * RECORD_BYTES / PAGE_ALIGN) * PAGE_ALIGN
        self.pages = torch.full((n_pages, stride), 255, dtype=torch.uint8, device=device)
        data, scales = self.planes()
        step = max(1, 65536 // page_rows)
        for begin in range(0, n_pages, step):
            n = min(step, n_pages - begin)
            codes, bytes_ = quantize((torch.randn(n * page_rows, DIM, device=device) / 10).clamp(-1, 1))
            data[begin:begin + n] = codes.view(n, page_rows, DATA_BYTES)
            scales[begin:begin + n] = bytes_.view(n, page_rows, 8)

    def planes(self):
        rows = self.page_rows
        return (self.pages[:, :rows * DATA_BYTES].unflatten(1, (rows, DATA_BYTES)),
                self.pages[:, rows * DATA_BYTES:rows * RECORD_BYTES].unflatten(1, (rows, 8)))

    def only(self, slots):
        """A copy in which all rows but the named ones hold NaN bytes."""
        copy = Pool.__new__(Pool)
        copy.page_rows, copy.pages = self.page_rows, torch.full_like(self.pages, 255)
        slots = slots[slots >= 0].long().unique()
        page, row = slots // self.page_rows, slots % self.page_rows
        for old, new in zip(self.planes(), copy.planes()):
            new[page, row] = old[page, row]
        return copy

    def cache(self):
        """[n_pages, page_rows, 1, 584], as engines hold it."""
        return torch.as_strided(self.pages, (len(self.pages), self.page_rows, 1, RECORD_BYTES),
                                (self.pages.stride(0), RECORD_BYTES, RECORD_BYTES, 1))

    def read(self, slots):
        """Named rows in f32; whatever lies at -1."""
        data, scales = self.planes()
        slots = slots.clamp(min=0).long()
        page, row = slots // self.page_rows, slots % self.page_rows
        found = data[page, row]
        powers = torch.exp2(scales[page, row][..., :7].float() - 127)
        codes = found[..., :FP8_DIM].contiguous().view(torch.float8_e4m3fn).float()
        tail = found[..., FP8_DIM:].contiguous().view(torch.bfloat16).float()
        return torch.cat([(codes.unflatten(-1, (7, 64)) * powers[..., None]).flatten(-2), tail], -1)


def strided(tensor):
    """The same values with gaps between rows."""
    wide = tensor.new_empty((*tensor.shape[:-1], tensor.shape[-1] + 64))
    wide[..., :tensor.shape[-1]] = tensor
    return wide[..., :tensor.shape[-1]]


class Scope:
    """A pool, and lists and lengths that name rows of it."""

    def __init__(self, shape, b, s_q, options, device):
        s_k, topk, page_rows = shape
        lengths = torch.full((b,), s_k)
        if options["varlen"]:
            lengths = (torch.randn(b) * s_k / 2 + s_k).long().clamp(min=s_q)
        if options["zero_length"]:
            lengths[torch.rand(b) < 0.5] = 0
        n_pages = (lengths + page_rows - 1) // page_rows
        self.pool = Pool(max(int(n_pages.sum()), 1), page_rows, device)
        order = torch.randperm(len(self.pool.pages), device=device)
        first = torch.cumsum(n_pages, 0) - n_pages
        most = max(int(lengths.max()), topk)
        keys = torch.rand(b, s_q, most, device=device)
        tokens = torch.arange(most, device=device)
        is_past = tokens >= lengths.to(device)[:, None]
        keys[is_past[:, None].expand_as(keys)] = 2.0
        picks = keys.argsort(-1)[..., :topk]
        page = order[(first.to(device)[:, None, None] + picks // page_rows).clamp(max=len(order) - 1)]
        slots = page * page_rows + picks % page_rows
        slots[picks >= lengths.to(device)[:, None, None]] = -1
        if options["all_invalid"]:
            slots[:] = -1
        self.topk_length, named = None, slots
        if options["topk_length"]:
            self.topk_length = torch.randint(0, topk + 1, (b,), dtype=torch.int32, device=device)
            if options["zero_length"]:
                self.topk_length[torch.rand(b, device=device) < 0.5] = 0
            counts = torch.arange(topk, device=device) < self.topk_length[:, None, None]
            named = torch.where(counts, slots, -1)
        self.named = named
        self.pool = self.pool.only(named)
        self.indices = strided(slots.to(torch.int32))


class Case:
    """Arguments of one call, and its answer."""

    def __init__(self, window, extra=None, b=4, s_q=1, h_q=64, device="cpu", seed=0, sink=True, varlen=True,
                 topk_length=False, extra_topk_length=False, all_invalid=False, zero_length=False):
        torch.manual_seed(seed)
        options = {"varlen": varlen, "all_invalid": all_invalid, "zero_length": zero_length}
        self.scopes = [Scope(window, b, s_q, {**options, "topk_length": topk_length}, device)]
        if extra is not None:
            self.scopes.append(Scope(extra, b, s_q, {**options, "topk_length": extra_topk_length}, device))
        self.q = strided(torch.randn(b, s_q, h_q, DIM, device=device).clamp(-1, 1).bfloat16())
        self.sink = None
        if sink:
            kind = torch.rand(h_q, device=device)
            self.sink = torch.randn(h_q, device=device)
            self.sink[kind < 0.31] = math.inf
            self.sink[kind > 0.69] = -math.inf

    def arguments(self, metadata):
        """Of flash_mla_with_kvcache."""
        window, extra = self.scopes[0], self.scopes[1] if len(self.scopes) > 1 else None
        return (self.q, window.pool.cache(), None, None, DIM, metadata, None, SCALE, False, True, window.indices,
                self.sink, extra and extra.pool.cache(), extra and extra.indices, window.topk_length,
                extra and extra.topk_length)

    def call(self, flash_mla, metadata, **options):
        """(out, lse) of a module with FlashMLA's names."""
        return flash_mla.flash_mla_with_kvcache(*self.arguments(metadata), **options)

    def answer(self, request):
        """out [s_q, h, 512] and lse [h, s_q] of a range of requests, in f32."""
        named = torch.cat([scope.named[request] for scope in self.scopes], -1)
        keys = torch.cat([scope.pool.read(scope.named[request]) for scope in self.scopes], -2)
        keys[named < 0] = 0
        q = self.q[request].float()
        scores = torch.matmul(q, keys.transpose(-1, -2)) * SCALE
        scores.masked_fill_((named < 0)[:, :, None], -math.inf)
        lse = scores.logsumexp(-1)
        out = torch.matmul((scores - lse.clamp(min=-1e30)[..., None]).exp(), keys)
        if self.sink is not None:
            out *= torch.sigmoid(lse - self.sink)[..., None]
        is_empty = (named < 0).all(-1)[:, :, None].expand_as(lse)
        out[is_empty] = 0
        return out, torch.where(is_empty, math.inf, lse).transpose(1, 2)

    def failure(self, out, lse):
        """Where out and lse miss FlashMLA's tolerances, in words, or None."""
        n_keys = sum(scope.named.shape[-1] for scope in self.scopes)
        step = max(1, (1 << 30) // (self.q.shape[1] * n_keys * DIM * 4))
        dot = norms = 0.0
        for begin in range(0, len(self.q), step):
            part = slice(begin, begin + step)
            want, want_lse = self.answer(part)
            got, got_lse = out[part].float(), lse[part]
            for name, a, b, least, relative in (("out", got, want, 1e-3, 2.01 / 128),
                                                ("lse", got_lse, want_lse, 1e-6, 8.01 / 65536)):
                if not torch.equal(a.isfinite(), b.isfinite()) or not torch.equal(a[~a.isfinite()], b[~b.isfinite()]):
                    return f"{name}: infinities or NaN differ in requests {part}"
                error = (a - b).abs().masked_fill(~b.isfinite(), 0)
                allowed = (b.abs().masked_fill(~b.isfinite(), 0) * relative).clamp(min=least)
                if (error > allowed).any():
                    return f"{name}: {(error / allowed).max().item():.3g} times the tolerance in requests {part}"
            got, want = got.double(), want.double()
            dot += (got * want).sum().item()
            norms += (got * got + want * want).sum().item()
        distance = 1 - 2 * dot / norms if norms else 0.0
        return None if distance < 5e-6 else f"out: cosine distance {distance:.3g}, expected below 5e-6"


_SHAPES = ((512, 64, 2), (512, 64, 64), (512, 64, 69), (1024, 576, 2), (1024, 576, 61), (2046, 2048, 2),
           (2046, 2048, 64), (2046, 2048, 576))
_CORNERS = ((512, 64, 61), (650, 576, 53))


def grid():
    """Arguments of Case for FlashMLA's 4476 sweep and corner cases in V4's format, in its order."""
    for extra, h_q, window, b, s_q in itertools.product((None, *_SHAPES), (64, 128), _SHAPES, (4, 74, 321), (1, 3)):
        for topk_length, extra_topk_length in itertools.product((False, True), (False, True) if extra else (False,)):
            common = {"window": window, "extra": extra, "b": b, "s_q": s_q, "h_q": h_q, "topk_length": topk_length,
                      "extra_topk_length": extra_topk_length}
            yield common
            if b == 74 and not topk_length and not extra_topk_length:
                yield {**common, "varlen": False}
    switches = [s for s in itertools.product((False, True), (False, True), (False, True)) if s != (False, False, True)]
    for extra, h_q, window, b in itertools.product((None, *_CORNERS), (64, 128), _CORNERS, (4, 74, 321)):
        for topk_length, extra_topk_length in itertools.product((False, True), (False, True) if extra else (False,)):
            for all_invalid, zero_length, sink in switches:
                common = {"window": window, "extra": extra, "b": b, "s_q": 3, "h_q": h_q, "topk_length": topk_length,
                          "extra_topk_length": extra_topk_length, "all_invalid": all_invalid,
                          "zero_length": zero_length, "sink": sink}
                yield common
                if b == 74 and not topk_length and not extra_topk_length:
                    yield {**common, "varlen": False}
