#!/usr/bin/env python3
"""Measures the decode attention on an NVIDIA GPU, and FlashMLA beside it when `flash_mla` can be imported.

Both compute the same tensors in one process; the result of each is compared with float32 arithmetic on
the dequantized rows first. A time is the median of graph replays, the graph holding one call: cold, after 256 MB
were overwritten, and warm, without. The floor is the larger of two times: the bytes that must move at
the rate of a large copy, the operations at the rate of a large bf16 matrix product, both measured in the same run.
Heads that FlashMLA does not take (below 64) are padded to 64 for it, as its callers do.

usage: bench/attn_gpu.py [--library build/libdsv4.so] [--json FILE] [--heads 8,64] [--keys 128+512]
                         [--batch 1,256] [--queries 1] [--groups 8,16,32,64] [--math bf16|fp8] [--no-peer]
                         [--lists own|neighbours] [--join auto|never|always]
Needs torch. --groups times our kernel once for each forced size of head group. --math fp8 times FP8 products (Hopper):
rougher than FlashMLA's tolerances, so that its result is held to a cosine of 0.999, and lse to 0.02, instead; FlashMLA
beside it and the floor are as with bf16. --lists neighbours: the lists of a request's queries share four of five rows, in
an order of their own, as those of neighbouring tokens do (--queries 2); the floor then counts a row once. --join: whether
our kernel reads such rows once.
"""
import argparse
import ctypes
import json
import statistics
import subprocess
import sys

import torch

DIM, FP8_DIM, PAGE_ALIGN, DATA_BYTES, RECORD_BYTES = 512, 448, 576, 576, 584
ROWS_PER_REQUEST = (4096, 8192)  # window, extra: enough to name none twice
WINDOW_PAGE, EXTRA_PAGE = 256, 64
SLEEP_CYCLES = 200_000           # what a replay waits behind, so that enqueuing it is not in its time
BACKEND_CUDA = 3
SHARED_ROWS = 0.8                # of a list, with --lists neighbours
JOINS = {"auto": 0, "never": 1, "always": 2}
MATHS = {"bf16": 0, "fp8": 4}    # bf16 is what AUTO takes
MAX_DISTANCE = {"bf16": 5e-6, "fp8": 1e-3}
MAX_LSE_ERROR = 0.02             # fp8: rounded queries move scores, which deviate by 0.05 here, by 2.4 % of that
SCALE = 512**-0.55


class Scope(ctypes.Structure):
    _fields_ = [("cache", ctypes.c_void_p), ("n_pages", ctypes.c_int64), ("page_rows", ctypes.c_int64),
                ("page_stride_bytes", ctypes.c_int64), ("row_format", ctypes.c_int32),
                ("reserved", ctypes.c_int32), ("indices", ctypes.c_void_p), ("n_indices", ctypes.c_int64),
                ("indices_request_stride_bytes", ctypes.c_int64),
                ("indices_query_stride_bytes", ctypes.c_int64), ("lengths", ctypes.c_void_p)]


class Params(ctypes.Structure):
    _fields_ = ([("size", ctypes.c_uint64), ("n_requests", ctypes.c_int64), ("n_queries", ctypes.c_int64),
                 ("n_heads", ctypes.c_int64), ("softmax_scale", ctypes.c_float)] +
                [(name, ctypes.c_int32) for name in
                 ("backend", "math", "cpu_level", "n_threads", "out_dtype", "q_dtype", "fixed_split",
                  "group_heads", "cuda_kernel")] +
                [("q", ctypes.c_void_p)] +
                [(f"q_{d}_stride_bytes", ctypes.c_int64) for d in ("request", "query", "head")] +
                [("window", Scope), ("extra", Scope), ("sink", ctypes.c_void_p), ("out", ctypes.c_void_p)] +
                [(f"out_{d}_stride_bytes", ctypes.c_int64) for d in ("request", "query", "head")] +
                [("lse", ctypes.c_void_p)] +
                [(f"lse_{d}_stride_bytes", ctypes.c_int64) for d in ("request", "query", "head")] +
                [("rope_table", ctypes.c_void_p), ("n_rope_rows", ctypes.c_int64),
                 ("rope_rows", ctypes.c_void_p), ("out_scales", ctypes.c_void_p)] +
                [(f"out_scales_{d}_stride_bytes", ctypes.c_int64) for d in ("request", "query", "head")] +
                [(name, ctypes.c_int32) for name in ("join_queries", "reserved")])


class Error(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int32), ("text", ctypes.c_char * 512)]


class Library:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)

    def call(self, name, *args):
        error = Error()
        if getattr(self.lib, name)(*args, ctypes.byref(error)) != 0:
            raise RuntimeError(f"{name}: {error.text.decode()}")


def make_pool(n_rows, page_rows):
    """A cache of random rows: pages [n_pages, stride] u8."""
    stride = -(-page_rows * RECORD_BYTES // PAGE_ALIGN) * PAGE_ALIGN
    n_pages = n_rows // page_rows
    pages = torch.zeros(n_pages, stride, dtype=torch.uint8, device="cuda")
    step = max(1, 65536 // page_rows)
    for begin in range(0, n_pages, step):
        n = min(step, n_pages - begin)
        rows = (torch.randn(n * page_rows, DIM, device="cuda") / 10).clamp(-1, 1)
        groups = rows[:, :FP8_DIM].view(-1, 7, 64)
        exponent = torch.ceil(torch.log2(groups.abs().amax(-1).clamp(min=1e-4) / 448))
        codes = (groups / torch.exp2(exponent)[..., None]).to(torch.float8_e4m3fn).view(torch.uint8)
        data = torch.cat([codes.view(-1, FP8_DIM), rows[:, FP8_DIM:].to(torch.bfloat16).view(torch.uint8)
                          .view(-1, 128)], 1)
        scales = torch.zeros(n * page_rows, 8, dtype=torch.uint8, device="cuda")
        scales[:, :7] = (exponent + 127).to(torch.uint8)
        pages[begin:begin + n, :page_rows * DATA_BYTES] = data.view(n, -1)
        pages[begin:begin + n, page_rows * DATA_BYTES:page_rows * RECORD_BYTES] = scales.view(n, -1)
    return pages


def read_rows(pages, page_rows, slots):
    """Rows of the named slots in float32."""
    page, row = slots // page_rows, slots % page_rows
    data = pages[page[..., None], (row * DATA_BYTES)[..., None] + torch.arange(DATA_BYTES, device="cuda")]
    at = (page_rows * DATA_BYTES + row * 8)[..., None] + torch.arange(7, device="cuda")
    scales = torch.exp2(pages[page[..., None], at].float() - 127)
    codes = data[..., :FP8_DIM].contiguous().view(torch.float8_e4m3fn).float()
    codes = (codes.unflatten(-1, (7, 64)) * scales[..., None]).flatten(-2)
    return torch.cat([codes, data[..., FP8_DIM:].contiguous().view(torch.bfloat16).float()], -1)


def count_shared(n_keys, lists):
    """Rows of a list that the request's other queries name too."""
    return int(n_keys * SHARED_ROWS) if lists == "neighbours" else 0


def make_indices(n_requests, n_queries, n_keys, n_rows, lists):
    """Each request names rows of its own share of the pool, a list none twice."""
    base = torch.arange(n_requests, device="cuda")[:, None, None] * (n_rows // n_requests)
    if lists == "own":
        picks = torch.rand(n_requests, n_queries, n_rows // n_requests, device="cuda").topk(n_keys, -1).indices
    else:
        n_shared = count_shared(n_keys, lists)
        n_own = n_keys - n_shared
        rows = torch.rand(n_requests, n_rows // n_requests, device="cuda").topk(n_shared + n_queries * n_own, -1).indices
        shared = rows[:, None, :n_shared].expand(-1, n_queries, -1)
        picks = torch.cat([shared, rows[:, n_shared:].view(n_requests, n_queries, n_own)], -1)
        picks = picks.gather(-1, torch.rand(picks.shape, device="cuda").argsort(-1))
    return (base + picks).to(torch.int32).contiguous()


class Case:
    def __init__(self, pools, n_heads, n_window, n_extra, n_requests, n_queries, lists):
        self.lists = lists
        self.pools, self.n_heads, self.n_keys = pools, n_heads, (n_window, n_extra)
        self.n_requests, self.n_queries = n_requests, n_queries
        self.q = torch.randn(n_requests, n_queries, n_heads, DIM, device="cuda").clamp(-1, 1).bfloat16()
        self.sink = torch.randn(n_heads, device="cuda")
        self.indices = [make_indices(n_requests, n_queries, n, rows * n_requests, lists) if n else None
                        for n, rows in zip(self.n_keys, ROWS_PER_REQUEST)]

    def reference(self, request):
        keys = torch.cat([read_rows(self.pools[i], (WINDOW_PAGE, EXTRA_PAGE)[i],
                                    self.indices[i][request].long()) for i in (0, 1) if self.n_keys[i]], 1)
        scores = torch.einsum("qhd,qkd->qhk", self.q[request].float(), keys) * SCALE
        lse = scores.logsumexp(-1)
        out = torch.einsum("qhk,qkd->qhd", (scores - lse[..., None]).exp(), keys)
        return out * torch.sigmoid(lse - self.sink)[..., None], lse

    def n_bytes(self):
        n = self.n_requests * self.n_queries
        n_again = self.n_requests * (self.n_queries - 1) * sum(count_shared(k, self.lists) for k in self.n_keys)
        return n * (sum(self.n_keys) * (RECORD_BYTES + 4) + self.n_heads * (DIM * 4 + 4)) - n_again * RECORD_BYTES

    def n_flop(self):
        return 4 * self.n_requests * self.n_queries * self.n_heads * sum(self.n_keys) * DIM


class Ours:
    def __init__(self, library, case, group_heads=0, math="bf16", join="auto"):
        self.library, p = library, Params()
        library.lib.dsv4_attn_params_default(ctypes.byref(p))
        p.n_requests, p.n_queries, p.n_heads = case.n_requests, case.n_queries, case.n_heads
        p.softmax_scale, p.backend, p.group_heads, p.math = SCALE, BACKEND_CUDA, group_heads, MATHS[math]
        p.join_queries = JOINS[join]
        for scope, pages, rows, indices in ((p.window, case.pools[0], WINDOW_PAGE, case.indices[0]),
                                            (p.extra, case.pools[1], EXTRA_PAGE, case.indices[1])):
            if indices is None:
                continue
            scope.cache, scope.n_pages, scope.page_rows = pages.data_ptr(), pages.shape[0], rows
            scope.indices, scope.n_indices = indices.data_ptr(), indices.shape[-1]
        library.lib.dsv4_attn_params_set_dense(ctypes.byref(p))
        self.out = torch.full((case.n_requests, case.n_queries, case.n_heads, DIM), float("nan"),
                              dtype=torch.bfloat16, device="cuda")
        self.lse = torch.full(self.out.shape[:3], float("nan"), device="cuda")
        p.q, p.sink, p.out, p.lse = (t.data_ptr() for t in (case.q, case.sink, self.out, self.lse))
        n_plan, n_workspace = ctypes.c_size_t(), ctypes.c_size_t()
        library.call("dsv4_attn_plan_size", ctypes.byref(p), ctypes.byref(n_plan), ctypes.byref(n_workspace))
        self.plan = torch.zeros(n_plan.value, dtype=torch.uint8, device="cuda")
        self.workspace = torch.zeros(n_workspace.value, dtype=torch.uint8, device="cuda")
        self.params, self.case = p, case
        self.build_plan()

    def stream(self):
        return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)

    def build_plan(self):
        self.library.call("dsv4_attn_plan_build", self.stream(), ctypes.byref(self.params),
                          ctypes.c_void_p(self.plan.data_ptr()), ctypes.c_size_t(self.plan.numel()))

    def __call__(self):
        self.library.call("dsv4_attn_decode", self.stream(), ctypes.byref(self.params),
                          ctypes.c_void_p(self.plan.data_ptr()), ctypes.c_size_t(self.plan.numel()),
                          ctypes.c_void_p(self.workspace.data_ptr()),
                          ctypes.c_size_t(self.workspace.numel()))

    def answer(self, request):
        return self.out[request].float(), self.lse[request]


class Peer:
    def __init__(self, case):
        import flash_mla
        self.flash_mla, self.case = flash_mla, case
        self.n_heads = -(-case.n_heads // 64) * 64
        pad = self.n_heads - case.n_heads
        self.q = torch.nn.functional.pad(case.q, (0, 0, 0, pad))
        self.sink = torch.nn.functional.pad(case.sink, (0, pad))
        self.meta, _ = flash_mla.get_mla_metadata()
        self.caches = [pool[:, :rows * RECORD_BYTES].view(-1, rows, 1, RECORD_BYTES)
                       for pool, rows in zip(case.pools, (WINDOW_PAGE, EXTRA_PAGE))]

    def __call__(self):
        has_extra = self.case.indices[1] is not None
        self.out, self.lse = self.flash_mla.flash_mla_with_kvcache(
            self.q, self.caches[0], None, None, DIM, self.meta, None, SCALE, False, True,
            self.case.indices[0], self.sink, self.caches[1] if has_extra else None, self.case.indices[1])

    def answer(self, request):
        n = self.case.n_heads
        return self.out[request, :, :n].float(), self.lse[request, :n].transpose(0, 1)


def check(runner, case, math="bf16"):
    """Largest violation of FlashMLA's own tolerances (fp8: of looser ones) over some requests, 1 being the limit,
    and the smallest cosine."""
    runner()
    torch.cuda.synchronize()
    worst, cosine = 0.0, 1.0
    for request in sorted({0, case.n_requests // 2, case.n_requests - 1}):
        out, lse = runner.answer(request)
        want, want_lse = case.reference(request)
        allowed = torch.maximum(torch.full_like(want, 1e-3), want.abs() * 2.01 / 128)
        distance = 1 - torch.nn.functional.cosine_similarity(out.double().flatten(), want.double().flatten(), 0)
        allowed_lse = torch.maximum(torch.full_like(want_lse, 1e-6), want_lse.abs() * 8.01 / 65536)
        cosine = min(cosine, 1 - distance.item()) if distance == distance else float("nan")
        values = [distance / MAX_DISTANCE[math]]
        if math == "bf16":
            values += [((out - want).abs() / allowed).max(), ((lse - want_lse).abs() / allowed_lse).max()]
        else:
            values += [(lse - want_lse).abs().max() / MAX_LSE_ERROR]
        for value in values:
            worst = max(worst, value.item()) if value == value else float("nan")
    return worst, cosine


def replay_times(runner, flush, n_replays=30):
    """Medians in microseconds: cold, warm."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        runner()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            runner()
    times = []
    for is_cold in (True, False):
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
                  for _ in range(n_replays)]
        for _ in range(3):
            graph.replay()
        for begin, end in events:
            if is_cold:
                flush.zero_()
            torch.cuda._sleep(SLEEP_CYCLES)
            begin.record()
            graph.replay()
            end.record()
        torch.cuda.synchronize()
        times.append(statistics.median(b.elapsed_time(e) for b, e in events) * 1e3)
    return times


def measure_ceilings():
    """Bytes per second of a copy, FLOP per second of a bf16 product, microseconds of an empty graph."""
    a = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    b = torch.empty_like(a)
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def median(f):
        for _ in range(3):
            f()
        times = []
        for _ in range(10):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            f()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        return statistics.median(times)

    one = torch.zeros(1, device="cuda")
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    return 2 * a.numel() * 2 / median(lambda: b.copy_(a)), 2 * 8192**3 / median(lambda: x @ y), \
        replay_times(lambda: one.zero_(), flush)[1]


def numbers(text):
    return [int(n) for n in text.split(",")]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", default="build/libdsv4.so")
    parser.add_argument("--json")
    parser.add_argument("--heads", type=numbers, default=[8, 16, 32, 64, 128])
    parser.add_argument("--keys", default="128,128+512,128+1024,128+8192")
    parser.add_argument("--batch", type=numbers, default=[1, 8, 32, 64, 128, 256])
    parser.add_argument("--queries", type=numbers, default=[1, 2])
    parser.add_argument("--groups", type=numbers, default=[0])
    parser.add_argument("--math", choices=MATHS, default="bf16")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--lists", choices=("own", "neighbours"), default="own")
    parser.add_argument("--join", choices=JOINS, default="auto")
    args = parser.parse_args()
    library = Library(args.library)
    has_peer = not args.no_peer
    try:
        import flash_mla  # noqa: F401
    except ImportError:
        has_peer = False
    torch.manual_seed(1)
    copy_rate, flop_rate, empty_us = measure_ceilings()
    head = {"device": torch.cuda.get_device_name(), "copy_gb_s": copy_rate / 1e9, "bf16_tflop_s": flop_rate / 1e12,
            "empty_graph_us": empty_us, "has_peer": has_peer,
            "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                                     text=True).stdout.strip()}
    lines = [head]
    print(json.dumps(head))
    print("heads  keys      b  q  group  worst   cold us  warm us  TFLOP/s  floor us  floor/cold  peer cold  warm  peer/ours")
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    is_good = True
    pools = [make_pool(n_rows * max(args.batch), page_rows)
             for n_rows, page_rows in zip(ROWS_PER_REQUEST, (WINDOW_PAGE, EXTRA_PAGE))]
    peer_times = {}
    for keys in args.keys.split(","):
        n_window, n_extra = (numbers(keys.replace("+", ",")) + [0])[:2]
        for n_queries in args.queries:
            for n_requests in args.batch:
                for n_heads in args.heads:
                    case = Case(pools, n_heads, n_window, n_extra, n_requests, n_queries, args.lists)
                    floor = max(case.n_bytes() / copy_rate, case.n_flop() / flop_rate) * 1e6
                    shape = (max(n_heads, 64), keys, n_requests, n_queries)
                    if has_peer and shape not in peer_times:
                        peer = Peer(case)
                        peer_times[shape] = (check(peer, case)[0], *replay_times(peer, flush))
                    for group in args.groups:
                        runner = Ours(library, case, group, args.math, args.join)
                        worst, cosine = check(runner, case, args.math)
                        cold, warm = replay_times(runner, flush)
                        is_good = is_good and worst <= 1
                        line = {"heads": n_heads, "keys": keys, "requests": n_requests, "queries": n_queries,
                                "group": group, "math": args.math, "lists": args.lists, "join": args.join,
                                "worst": worst, "cosine": cosine,
                                "cold_us": cold, "warm_us": warm, "floor_us": floor,
                                "tflop_s": case.n_flop() / cold / 1e6}
                        text = (f"{n_heads:5} {keys:>9} {n_requests:4} {n_queries:2} {group:6} {worst:6.2f} "
                                f"{cold:9.1f} {warm:8.1f} {line['tflop_s']:8.0f} {floor:9.1f} {floor / cold:11.2f}")
                        if has_peer:
                            line["peer_worst"], line["peer_cold_us"], line["peer_warm_us"] = peer_times[shape]
                            text += (f" {line['peer_cold_us']:10.1f} {line['peer_warm_us']:5.1f} "
                                     f"{line['peer_cold_us'] / cold:10.2f}")
                        if args.math != "bf16":
                            text += f"  cosine {cosine:.6f}"
                        lines.append(line)
                        print(text, flush=True)
                    del case
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            f.writelines(json.dumps(line) + "\n" for line in lines)
    if not is_good:
        print("a result is outside its tolerance", file=sys.stderr)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
