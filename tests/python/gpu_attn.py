"""dsv4.attn and dsv4.keys on a GPU: answers, streams, graphs, memory, devices, large pools."""
import unittest

import numpy
import torch

import attn_cases
import dsv4
import torch_pool
from attn_cases import apart
from dsv4 import attn, keys
from dsv4.attn import Plan, Scope

DEVICE = "cuda:0"
GIB = 1 << 30


def to_device(array):
    if array is None:
        return None
    if array.dtype == numpy.uint16:
        return torch.from_numpy(attn_cases.from_bf16(array)).bfloat16().to(DEVICE)
    return torch.from_numpy(array).to(DEVICE)


def scope_of(scope):
    return None if scope is None else Scope(*map(to_device, scope[:3]), scope[3])


def random_scopes(b=6, s_q=1, h_q=16, **options):
    """(q, window, extra, sink) of a random case with both scopes and lengths."""
    case = torch_pool.Case((1024, 128, 256), (2046, 512, 64), b=b, s_q=s_q, h_q=h_q, device=DEVICE, topk_length=True,
                           extra_topk_length=True, **options)
    window, extra = (Scope(s.pool.cache(), s.indices, s.topk_length) for s in case.scopes)
    return case.q, window, extra, case.sink


class Answers(unittest.TestCase):
    def test_case_files(self):
        n_cases = 0
        for path in attn_cases.case_paths():
            case = attn_cases.Case(path)
            q, sink = to_device(case.q), to_device(case.sink)
            window, extra = scope_of(case.window), scope_of(case.extra)
            if window.cache.stride(0) % 16 or (extra and extra.cache.stride(0) % 16):
                continue  # CUDA refuses it: test_wrong_shapes_and_layouts
            n_cases += 1
            for options in ({}, {"out_dtype": "f32"}, {"fixed_split": True}, {"cuda_kernel": "mma"},
                            {"join_queries": "always"}):
                plan = Plan(q, window, extra, **options)
                out, lse = plan.decode(q, window, extra, sink=sink, softmax_scale=case.scale)
                error, lse_error = apart(out.float().cpu().numpy(), case.out, lse.cpu().numpy(), case.lse)
                self.assertLess(error, 2.0**-8, f"{case.name} {options}")
                self.assertLess(lse_error, 2.0**-12, f"{case.name} {options}")
        self.assertGreater(n_cases, 10)

    def test_choice(self):
        q, window, extra, _ = random_scopes()
        self.assertEqual(Plan(q, window, extra).choice()["backend"], "cuda")

    def test_merge(self):
        q, window, extra, sink = random_scopes()
        parts = [attn.decode(q, scope, out_dtype="f32") for scope in (window, extra)]
        want, want_lse = attn.decode(q, window, extra, sink=sink, out_dtype="f32")
        out, lse = attn.merge(torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts]), sink=sink)
        error, lse_error = apart(*(t.cpu().numpy() for t in (out, want, lse, want_lse)))
        self.assertLess(max(error, lse_error), 2.0**-8)

    def test_keys_are_those_of_the_cpu(self):
        torch.manual_seed(1)
        q, kv, table = torch.randn(9, 8, 512), torch.randn(9, 512), torch.randn(20, 64)
        slots, rows = torch.randperm(24)[:9].int(), torch.arange(9, dtype=torch.int32)
        results = []
        for device in ("cpu", DEVICE):
            cache = torch.zeros(3, attn.page_stride_bytes(8), dtype=torch.uint8, device=device)
            out = keys.finish(q.to(device), kv.to(device), cache, slots.to(device), rope_table=table.to(device),
                              rope_rows=rows.to(device), page_rows=8)
            state = torch.zeros(1, 16, 2, 1024, device=device)
            torch.manual_seed(2)
            k, g, ape = torch.randn(8, 1024), torch.randn(8, 1024), torch.randn(4, 1024)
            zeros, positions = torch.zeros(8, dtype=torch.int32), torch.arange(8, dtype=torch.int32)
            keys.compress(k.to(device), g.to(device), ratio=4, requests=zeros.to(device),
                          positions=positions.to(device), ape=ape.to(device), state=state,
                          tables=torch.zeros(1, 1, dtype=torch.int32, device=device), compressed=cache,
                          slots=(20 + positions // 4).to(device), rope_table=table.to(device), page_rows=8)
            back = keys.read(cache, slots=torch.arange(24, dtype=torch.int32, device=device), page_rows=8, dtype="f32")
            results.append([t.cpu() for t in (out, cache, state, back)])
        for ours, theirs in zip(*results):
            self.assertLess((ours.float() - theirs.float()).abs().max().item(), 1e-5)


class Streams(unittest.TestCase):
    def setUp(self):
        self.q, self.window, self.extra, self.sink = random_scopes()
        self.want, _ = attn.decode(self.q, self.window, self.extra, sink=self.sink)
        self.late = torch.zeros_like(self.q)
        self.plan = Plan(self.q, self.window, self.extra)
        self.out = torch.zeros_like(self.want)
        torch.cuda.synchronize()

    def test_the_current_stream_is_taken(self):
        with torch.cuda.stream(torch.cuda.Stream()) as _:
            torch.cuda._sleep(100_000_000)
            self.late.copy_(self.q)
            self.plan.decode(self.late, self.window, self.extra, sink=self.sink, out=self.out)
            torch.cuda.current_stream().synchronize()
        self.assertTrue(torch.equal(self.out, self.want))

    def test_a_given_stream_is_taken(self):
        for as_given in (lambda s: s, lambda s: s.cuda_stream):
            stream = torch.cuda.Stream()
            self.out.zero_()
            self.late.zero_()
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(100_000_000)
                self.late.copy_(self.q)
            self.plan.decode(self.late, self.window, self.extra, sink=self.sink, out=self.out, stream=as_given(stream))
            self.assertFalse(stream.query(), "the call waited")
            stream.synchronize()
            self.assertTrue(torch.equal(self.out, self.want))

    def test_memory_that_is_made_for_a_given_stream(self):
        stream = torch.cuda.Stream()
        for _ in range(20):
            self.late.zero_()
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(10_000_000)
                self.late.copy_(self.q)
            out, _ = attn.decode(self.late, self.window, self.extra, sink=self.sink, stream=stream)
            for _ in range(4):  # what the call has given back must not be used before the stream is through
                torch.full((1 << 22,), 255, dtype=torch.uint8, device=DEVICE)
            stream.synchronize()
            self.assertTrue(torch.equal(out, self.want))

    def test_tensors_of_others_need_a_stream(self):
        class Dlpack:
            def __init__(self, tensor):
                self.tensor = tensor

            def __dlpack__(self, **kwargs):
                return self.tensor.__dlpack__(**kwargs)

            def __dlpack_device__(self):
                return self.tensor.__dlpack_device__()

        def wrapped(scope):
            return Scope(*map(Dlpack, scope[:3]))

        blocks = [torch.zeros(n, dtype=torch.uint8, device=DEVICE) for n in self.plan.sizes()]
        arguments = (Dlpack(self.q), wrapped(self.window), wrapped(self.extra))
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^memory: not given, expected .* bytes on cuda:0"):
            Plan(*arguments)
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^stream: not given"):
            Plan(*arguments, memory=blocks[0], workspace=blocks[1])
        stream = torch.cuda.current_stream().cuda_stream
        plan = Plan(*arguments, memory=blocks[0], workspace=blocks[1], stream=stream)
        plan.decode(*arguments, sink=self.sink, out=self.out, stream=stream)
        self.assertTrue(torch.equal(self.out, self.want))


class Graphs(unittest.TestCase):
    def test_replay_follows_lengths(self):
        q, window, extra, sink = random_scopes(s_q=2)
        plan = Plan(q, window, extra)
        out, lse = torch.empty(q.shape, dtype=torch.bfloat16, device=DEVICE), torch.empty(q.shape[:3], device=DEVICE)
        plan.decode(q, window, extra, sink=sink, out=out, lse=lse)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            plan.build(window, extra)
            plan.decode(q, window, extra, sink=sink, out=out, lse=lse)
        longest = window.lengths.clone(), extra.lengths.clone()  # what is behind them is NaN
        for lengths in ((3, 500), (0, 0), (128, 7), (-5, 600)):
            window.lengths.copy_(longest[0].clamp(max=lengths[0]))
            extra.lengths.copy_(longest[1].clamp(max=lengths[1]))
            want, want_lse = attn.decode(q, window, extra, sink=sink)
            out.zero_()
            graph.replay()
            self.assertTrue(want.isfinite().all())
            self.assertTrue(torch.equal(out, want) and torch.equal(lse, want_lse), lengths)


class Memory(unittest.TestCase):
    def test_a_thousand_calls_allocate_nothing(self):
        q, window, extra, sink = random_scopes()
        plan = Plan(q, window, extra)
        out, lse = torch.empty(q.shape, dtype=torch.bfloat16, device=DEVICE), torch.empty(q.shape[:3], device=DEVICE)

        def run(n):
            for _ in range(n):
                plan.build(window, extra)
                plan.decode(q, window, extra, sink=sink, out=out, lse=lse)
            torch.cuda.synchronize()
            return torch.cuda.memory_stats()["allocation.all.allocated"], torch.cuda.mem_get_info()[0]

        self.assertEqual(run(100), run(1000))

    def test_a_thousand_calls_that_make_outputs_do_not_grow(self):
        q, window, extra, sink = random_scopes()

        def run(n):
            for _ in range(n):
                torch.ops.dsv4.sparse_mla_decode(q, *window[:3], *extra[:3], sink)
            torch.cuda.synchronize()
            return torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]

        from dsv4 import torch_ops  # noqa: F401
        self.assertEqual(run(100), run(1000))

    def test_rows_past_4_gib(self):
        free = torch.cuda.mem_get_info()[0]
        n_bytes = next((n for n in (64 * GIB, 16 * GIB, 6 * GIB) if n + 2 * GIB < free), None)
        if n_bytes is None:
            self.skipTest(f"{free >> 30} GiB free, expected 8")
        page_rows, stride = 64, attn.page_stride_bytes(64)
        pool = torch.empty(n_bytes // stride, stride, dtype=torch.uint8, device=DEVICE)
        borders = [0, 2 * GIB, 4 * GIB, 8 * GIB, 16 * GIB, 32 * GIB, n_bytes]
        pages = sorted({min(max(border // stride + step, 0), len(pool) - 1) for border in borders for step in (-1, 0, 1)
                        if border <= n_bytes})
        slots = torch.tensor([page * page_rows + row for page in pages for row in (0, 1, 31, 63)], dtype=torch.int32)
        n = len(slots)
        torch.manual_seed(5)
        kv, table = torch.randn(n, 512, device=DEVICE) / 10, torch.randn(1, 64, device=DEVICE)
        zeros = torch.zeros(n, dtype=torch.int32, device=DEVICE)
        small = torch.zeros((n + 63) // 64, stride, dtype=torch.uint8, device=DEVICE)
        order = torch.arange(n, dtype=torch.int32, device=DEVICE)
        results = []
        q = torch.randn(1, 1, 32, 512, device=DEVICE).bfloat16()
        for cache, where in ((pool, slots.to(DEVICE)), (small, order)):
            keys.finish(kv=kv, window=cache, slots=where, rope_table=table, rope_rows=zeros, page_rows=page_rows)
            rows = keys.read(cache, slots=where, page_rows=page_rows, dtype="f32")
            scope = Scope(cache, where.view(1, 1, -1), None, page_rows)
            results.append((rows, *attn.decode(q, scope), *attn.decode(q, Scope(None, None), scope)))
        for far, near in zip(*results):
            self.assertTrue(torch.equal(far, near), f"{n_bytes >> 30} GiB")
        print(f"a pool of {n_bytes >> 30} GiB ... ", end="")


class Refusals(unittest.TestCase):
    def setUp(self):
        self.q, self.window, self.extra, self.sink = random_scopes()
        self.plan = Plan(self.q, self.window, self.extra)

    def refused(self, pattern, **changes):
        arguments = {"q": self.q, "window": self.window, "extra": self.extra, "sink": self.sink, **changes}
        with self.assertRaisesRegex(dsv4.InvalidArgument, pattern):
            self.plan.decode(**arguments)

    def test_wrong_devices(self):
        self.refused("^sink: on cpu, expected cuda:0 as the queries", sink=self.sink.cpu())
        self.refused("^window.indices: on cpu", window=self.window._replace(indices=self.window.indices.cpu()))
        self.refused("^q: on cpu", q=self.q.cpu())
        self.refused("^out: on cpu", out=torch.empty(self.q.shape, dtype=torch.bfloat16))
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^window.cache: on cuda:0, expected cpu"):
            Plan(self.q.cpu(), self.window)

    def test_wrong_shapes_and_layouts(self):
        self.refused(r"^q: shape \[5, 1, 16, 512\]", q=self.q[:5])
        self.refused("^q: dtype f32", q=self.q.float())
        self.refused(r"^extra.lengths: shape \[1\]", extra=self.extra._replace(lengths=self.extra.lengths[:1]))
        odd = torch.zeros(4, 3, 584, dtype=torch.uint8, device=DEVICE)
        with self.assertRaisesRegex(dsv4.Error, "page_stride_bytes: 1752, expected a multiple of 16"):
            Plan(self.q, self.window._replace(cache=odd))

    def test_what_cuda_cannot(self):
        with self.assertRaisesRegex(dsv4.Error, "exact"):
            Plan(self.q, self.window, math="exact")
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^backend: 'ref', but the tensors are on cuda"):
            Plan(self.q, self.window, backend="ref")

    @unittest.skipIf(torch.cuda.device_count() < 2, "one device")
    def test_another_device_than_the_current_one(self):
        q, window, extra, sink = self.q, self.window, self.extra, self.sink
        want, want_lse = attn.decode(q, window, extra, sink=sink)

        def there(tensor):
            return tensor.to("cuda:1")

        window, extra = (Scope(torch.as_strided(there(s.cache._base), s.cache.shape, s.cache.stride()),
                               there(s.indices), there(s.lengths)) for s in (window, extra))
        out, lse = attn.decode(there(q), window, extra, sink=there(sink))
        self.assertEqual((out.device.index, torch.cuda.current_device()), (1, 0))
        self.assertTrue(torch.equal(out.cpu(), want.cpu()) and torch.equal(lse.cpu(), want_lse.cpu()))


if __name__ == "__main__":
    unittest.main()
