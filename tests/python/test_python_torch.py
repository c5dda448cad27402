"""What needs torch, on the CPU: dsv4.attn on torch tensors, torch.ops.dsv4, dsv4.flash_mla. Skipped without torch."""
import concurrent.futures
import inspect
import os
import re
import threading
import types
import unittest

import numpy

import attn_cases
import dsv4
from attn_cases import apart, from_bf16
from dsv4.attn import Plan, Scope

try:
    import torch
except ImportError as error:
    raise unittest.SkipTest(f"no torch: {error}") from error

import run_gpu
import torch_keys
import torch_pool
from dsv4 import attn, flash_mla, tensors, torch_ops

CASE = attn_cases.Case(os.path.join(attn_cases.FOLDER, "sq3-extra.safetensors"))


def to_torch(array):
    if array is None:
        return None
    if array.dtype == numpy.uint16:
        return torch.from_numpy(from_bf16(array)).bfloat16()
    return torch.from_numpy(array)


def to_cache(scope):
    pages = torch.from_numpy(scope[0])
    return torch.as_strided(pages, (len(pages), scope[3], 584), (pages.stride(0), 584, 1))


def op_arguments():
    window, extra = CASE.window, CASE.extra
    return (to_torch(CASE.q), to_cache(window), to_torch(window[1]), to_torch(window[2]), to_cache(extra),
            to_torch(extra[1]), to_torch(extra[2]), to_torch(CASE.sink))


class Tensors(unittest.TestCase):
    def test_the_answer(self):
        q, wc, wi, wl, ec, ei, el, sink = op_arguments()
        window, extra = Scope(wc, wi, wl), Scope(ec, ei, el)
        plan = Plan(q, window, extra)
        for _ in range(2):
            out, lse = plan.decode(q, window, extra, sink=sink, softmax_scale=CASE.scale)
            self.assertEqual((out.dtype, lse.dtype), (torch.bfloat16, torch.float32))
            self.assertLess(apart(out.float().numpy(), CASE.out, lse.numpy(), CASE.lse)[0], 2.0**-8)
        other = q.clone()
        self.assertTrue(torch.equal(plan.decode(other, window, extra, sink=sink, softmax_scale=CASE.scale)[0], out))
        fp8 = Scope(wc.view(torch.float8_e4m3fn), wi, wl)
        self.assertTrue(torch.equal(plan.decode(q, fp8, extra, sink=sink, softmax_scale=CASE.scale)[0], out))

    def test_a_fast_call_checks_what_changed(self):
        q, wc, wi, wl, ec, ei, el, sink = op_arguments()
        window, extra = Scope(wc, wi, wl), Scope(ec, ei, el)
        plan = Plan(q, window, extra)
        plan.decode(q, window, extra)
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^q: dtype f32, expected bf16"):
            plan.decode(q.float(), window, extra)
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^q: device meta, expected cpu or cuda"):
            plan.decode(q.to("meta"), window, extra)
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^q: last stride"):
            plan.decode(q.transpose(-1, -2).contiguous().transpose(-1, -2), window, extra)
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^window.indices: dtype torch.int64"):
            plan.decode(q, window._replace(indices=wi.long()), extra)
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^sink: layout torch.sparse_coo"):
            plan.decode(q, window, extra, sink=torch.zeros(8).to_sparse())
        plan.decode(q, window, extra)

    def test_calls_with_other_tensors_are_not_taken_for_each_other(self):
        q, wc, wi, _, _, _, _, _ = op_arguments()
        lengths = numpy.ones(len(q), numpy.int32)
        for n in (len(q), 1):
            call = attn.call_for(attn.DecodeCall, q[:n], Scope(wc, wi[:n], lengths[:n]), Scope(None, None), False)
            self.assertEqual(call.shape[0], n)

    def test_lengths_of_a_build_are_not_those_of_a_decode(self):
        q, wc, wi, _, _, _, _, _ = op_arguments()
        plan = Plan(q, Scope(wc, wi), n_threads=1)
        want, _ = plan.decode(q, Scope(wc, wi))
        plan.build(Scope(wc, wi, torch.ones(len(q), dtype=torch.int32)))
        plan.build(Scope(wc, wi))
        self.assertTrue(torch.equal(plan.decode(q, Scope(wc, wi))[0], want))
        short = torch.ones(len(q), dtype=torch.int32)
        plan.build(Scope(wc, wi, short))
        one, _ = plan.decode(q, Scope(wc, wi, short))
        self.assertFalse(torch.equal(one, want))
        short.fill_(wi.shape[-1])
        plan.build(Scope(wc, wi, short))
        self.assertTrue(torch.equal(plan.decode(q, Scope(wc, wi, short))[0], want))


class Operators(unittest.TestCase):
    def opcheck(self, operator, *args, **kwargs):
        results = torch.library.opcheck(operator, args, kwargs)
        self.assertEqual(set(results.values()), {"SUCCESS"})

    def test_decode(self):
        args = op_arguments()
        out, lse = torch.ops.dsv4.sparse_mla_decode(*args, softmax_scale=CASE.scale)
        self.assertLess(apart(out.float().numpy(), CASE.out, lse.numpy(), CASE.lse)[0], 2.0**-8)
        self.opcheck(torch.ops.dsv4.sparse_mla_decode.default, *args, softmax_scale=CASE.scale)
        self.opcheck(torch.ops.dsv4.sparse_mla_decode.default, *args[:3], fixed_split=True)

    def test_decode_into_outputs(self):
        args = op_arguments()
        want, want_lse = torch.ops.dsv4.sparse_mla_decode(*args)
        plan = Plan(args[0], Scope(*args[1:4]), Scope(*args[4:7]))
        out, lse = torch.empty_like(want), torch.empty_like(want_lse)
        memory = {"plan": plan.memory, "workspace": plan.workspace}
        torch.ops.dsv4.sparse_mla_plan_build(*args[:7], plan=plan.memory)
        for extra in ({}, memory):
            out.fill_(float("nan"))
            torch.ops.dsv4.sparse_mla_decode_out(*args, out=out, lse=lse, **extra)
            self.assertTrue(torch.equal(out, want) and torch.equal(lse, want_lse))
            self.opcheck(torch.ops.dsv4.sparse_mla_decode_out.default, *args, out=out, lse=lse, **extra)
        self.opcheck(torch.ops.dsv4.sparse_mla_plan_build.default, *args[:7], plan=plan.memory)
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^plan and workspace: one given"):
            torch.ops.dsv4.sparse_mla_decode_out(*args, out=out, plan=plan.memory)

    def test_memory_must_lie_where_the_queries_do(self):
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^workspace: on cpu, expected cuda:0 as the queries"):
            torch_ops._block("workspace", torch.zeros(64, dtype=torch.uint8), (tensors.CUDA, 0))

    def test_schemas_say_what_is_written(self):
        written = {"sparse_mla_decode": [], "sparse_mla_decode_out": ["out", "lse", "workspace"],
                   "sparse_mla_plan_build": ["plan"], "keys_finish": ["window_cache", "out"],
                   "keys_compress": ["state", "compressed_cache"], "keys_read": ["out"]}
        for name, expected in written.items():
            arguments = getattr(torch.ops.dsv4, name).default._schema.arguments
            self.assertEqual([a.name for a in arguments if a.alias_info and a.alias_info.is_write], expected, name)

    def test_keys(self):
        args = torch_keys.Arguments()
        self.opcheck(torch.ops.dsv4.keys_finish.default, *args.finish, out=torch.empty_like(args.finish[0]))
        self.opcheck(torch.ops.dsv4.keys_compress.default, *args.compress)
        self.opcheck(torch.ops.dsv4.keys_read.default, *args.read, out=args.back)
        self.assertIsNone(torch_keys.failure(torch_keys.step))

    def test_keys_compiled(self):
        self.assertIsNone(torch_keys.failure(torch.compile(torch_keys.step, backend="aot_eager", fullgraph=True)))

    def test_compiled(self):
        args = op_arguments()

        def step(*args):
            return torch.ops.dsv4.sparse_mla_decode(*args)[0].float().relu() + 1

        def step_in_place(out, *args):
            torch.ops.dsv4.sparse_mla_decode_out(*args, out=out)
            return out * 2

        compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
        self.assertTrue(torch.equal(compiled(*args), step(*args)))
        compiled = torch.compile(step_in_place, backend="aot_eager", fullgraph=True)
        out = torch.empty_like(args[0])
        self.assertTrue(torch.equal(compiled(out, *args), out * 2))
        self.assertTrue(torch.equal(out, torch.ops.dsv4.sparse_mla_decode(*args)[0]))

    def test_errors_use_the_operators_names(self):
        args = list(op_arguments())
        args[2] = args[2].long()
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^window_indices: dtype torch.int64, expected i32"):
            torch.ops.dsv4.sparse_mla_decode(*args)


class FlashMla(unittest.TestCase):
    def test_signature(self):
        expected = ("q k_cache block_table cache_seqlens head_dim_v tile_scheduler_metadata num_splits softmax_scale "
                    "causal is_fp8_kvcache indices attn_sink extra_k_cache extra_indices_in_kvcache topk_length "
                    "extra_topk_length out enable_batch_invariant")
        parameters = inspect.signature(flash_mla.flash_mla_with_kvcache).parameters
        self.assertEqual(list(parameters), expected.split())
        self.assertEqual([p.default for p in parameters.values()][6:10], [None, None, False, False])
        # Not FlashMLA's own: by keyword alone, because its next argument may be another.
        self.assertEqual([p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY],
                         ["out", "enable_batch_invariant"])
        metadata, nothing = flash_mla.get_mla_metadata(1, 2, anything=3)
        self.assertIsNone(nothing)
        self.assertFalse(metadata.have_initialized)

    def check(self, **arguments):
        case = torch_pool.Case(**arguments)
        metadata, _ = flash_mla.get_mla_metadata()
        for _ in range(2):
            out, lse = case.call(flash_mla, metadata)
            self.assertIsNone(case.failure(out, lse), arguments)
        b, s_q, h_q = case.q.shape[:3]
        self.assertEqual((out.shape, lse.shape, lse.stride()), ((b, s_q, h_q, 512), (b, h_q, s_q), (h_q * s_q, 1, h_q)))
        self.assertEqual(metadata.config.topk, case.scopes[0].indices.shape[-1])
        return case, metadata, out, lse

    def test_inside_a_compiled_function(self):
        case = torch_pool.Case((512, 64, 64))
        want, want_lse = case.call(flash_mla, flash_mla.get_mla_metadata()[0])

        def step():
            out, lse = case.call(flash_mla, flash_mla.get_mla_metadata()[0])
            return out + 1, lse

        out, lse = torch.compile(step, backend="aot_eager")()
        self.assertTrue(torch.equal(out, want + 1) and torch.equal(lse, want_lse))

    def test_the_grid_is_flash_mlas(self):
        header = os.path.join(attn_cases.ROOT, "tests", "check", "attn_flashmla.h")
        with open(header, encoding="utf-8") as file:
            n_cases = int(re.search(r"ATTN_FLASHMLA_CASES = (\d+)", file.read())[1])
        self.assertEqual(n_cases, 4476)
        self.assertEqual(len(list(torch_pool.grid())), n_cases)
        self.assertEqual(len({str(sorted(arguments.items())) for arguments in torch_pool.grid()}), n_cases)

    def test_some_of_the_grid(self):
        cases = [arguments for arguments in torch_pool.grid() if arguments["b"] == 4 and arguments["h_q"] == 64]
        for i, arguments in enumerate(cases[::150]):
            self.check(seed=i, **arguments)

    def test_lengths_of_both_scopes(self):
        self.check(window=(512, 64, 64), extra=(1024, 576, 61), s_q=2, topk_length=True, extra_topk_length=True)
        self.check(window=(512, 64, 64), extra=(512, 64, 2), extra_topk_length=True, sink=False)

    def test_what_flash_mla_refuses(self):
        for h_q, topk in ((8, 64), (16, 100), (32, 1), (12, 63)):
            self.check(window=(512, topk, 64), extra=(100, 7, 2), h_q=h_q)

    def test_the_check_notices(self):
        case, _, out, lse = self.check(window=(512, 64, 64), sink=False)
        wrong = out.clone()
        wrong[2, 0, 5, 100] += 0.02
        self.assertIn("out: ", case.failure(wrong, lse))
        self.assertIn("lse: ", case.failure(out, lse * 1.001))
        wrong[2, 0, 5, 100] = float("nan")
        self.assertIn("out: infinities or NaN", case.failure(wrong, lse))
        self.assertIn("out: ", case.failure(out * 1.02, lse))

    def test_rows_without_keys(self):
        case, _, out, lse = self.check(window=(512, 64, 64), extra=(512, 64, 2), all_invalid=True)
        self.assertTrue((out == 0).all() and (lse == float("inf")).all())

    def test_out_and_batch_invariance(self):
        case, metadata, want, _ = self.check(window=(512, 64, 64))
        out = torch.empty(case.q.shape, dtype=torch.bfloat16)
        self.assertIs(case.call(flash_mla, metadata, out=out)[0], out)
        self.assertTrue(torch.equal(out, want))
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^enable_batch_invariant: True, expected False"):
            case.call(flash_mla, metadata, enable_batch_invariant=True)

    def refused(self, kind, pattern, metadata=None, **changes):
        case = torch_pool.Case((512, 64, 64), (512, 64, 2))
        window, extra = case.scopes
        arguments = {"q": case.q, "k_cache": window.pool.cache(), "block_table": None, "cache_seqlens": None,
                     "head_dim_v": 512, "tile_scheduler_metadata": metadata or flash_mla.get_mla_metadata()[0],
                     "is_fp8_kvcache": True, "indices": window.indices, "extra_k_cache": extra.pool.cache(),
                     "extra_indices_in_kvcache": extra.indices, **changes}
        with self.assertRaisesRegex(kind, pattern):
            flash_mla.flash_mla_with_kvcache(**arguments)
        return case

    def test_other_formats_are_named(self):
        bytes_ = torch.zeros(2, 64, 1, 656, dtype=torch.uint8)
        q = torch.zeros(4, 1, 64, 576, dtype=torch.bfloat16)
        self.refused(dsv4.Unsupported, "^q: 576 wide, V3.2's format", q=q)
        self.refused(dsv4.Unsupported, "^k_cache: rows of 656, that is V3.2's FP8", k_cache=bytes_)
        self.refused(dsv4.Unsupported, "^extra_k_cache: rows of 288, that is V4.1's FP4",
                     extra_k_cache=bytes_[..., :288])
        self.refused(dsv4.Unsupported, "^k_cache: rows of 512, that is a bf16 cache", k_cache=bytes_[..., :512])
        self.refused(dsv4.Unsupported, "^indices: None, .* not the dense one", indices=None)
        self.refused(dsv4.Unsupported, "^is_fp8_kvcache: False", is_fp8_kvcache=False)
        self.refused(dsv4.Unsupported, "^causal: True", causal=True)

    def test_bad_arguments_are_named(self):
        bad = dsv4.InvalidArgument
        self.refused(bad, "^head_dim_v: 448, expected 512", head_dim_v=448)
        self.refused(bad, "^k_cache: a NoneType, expected a torch.Tensor", k_cache=None)
        self.refused(bad, "^q: a ndarray, expected a torch.Tensor", q=numpy.zeros((4, 1, 64, 512)))
        self.refused(bad, "^num_splits: 3, expected None", num_splits=3)
        for name in ("topk_length", "extra_topk_length"):
            self.refused(bad, f"^{name}: a ndarray, expected a torch.Tensor", **{name: numpy.zeros(4, numpy.int32)})
        self.refused(bad, "^tile_scheduler_metadata: a builtins.dict", metadata={"a": 1})
        theirs = types.SimpleNamespace(have_initialized=True, config=types.SimpleNamespace(b=4))
        self.refused(bad, "^tile_scheduler_metadata: a types.SimpleNamespace, expected .* dsv4.flash_mla.get",
                     metadata=theirs)
        self.refused(bad, "^q: torch.float32, expected torch.bfloat16", q=torch.zeros(4, 1, 64, 512))
        self.refused(bad, r"^indices: shape \[3, 1, 64\], expected \[4, 1, 64\]",
                     indices=torch.zeros(3, 1, 64, dtype=torch.int32))
        self.refused(bad, "^extra_k_cache: not given, expected the cache", extra_k_cache=None)
        self.refused(bad, "^k_cache: 2 key heads", k_cache=torch.zeros(2, 64, 2, 584, dtype=torch.uint8))
        self.refused(bad, "^topk_length: dtype torch.int64", topk_length=torch.zeros(4, dtype=torch.int64))
        self.refused(bad, r"^attn_sink: shape \[1\], expected \[64\]", attn_sink=torch.zeros(1))

    def test_metadata_of_several_steps_at_once(self):
        cases = [torch_pool.Case((512, 64, 64), (512, 64, 2), seed=seed, topk_length=True) for seed in range(3)]
        steps = [(case, flash_mla.get_mla_metadata()[0]) for case in cases]
        for case, metadata in steps * 2:
            self.assertIsNone(case.failure(*case.call(flash_mla, metadata)))
        self.assertEqual(len({metadata.blocks for _, metadata in steps}), 3)

    def test_lengths_of_a_scope_that_is_not_there(self):
        case, metadata, _, _ = self.check(window=(512, 64, 64))
        arguments, lengths = case.arguments(metadata), torch.zeros(4, dtype=torch.int32)
        for metadata in (metadata, flash_mla.get_mla_metadata()[0]):
            arguments = (*arguments[:5], metadata, *arguments[6:-1], lengths)
            with self.assertRaisesRegex(dsv4.InvalidArgument, "^extra_topk_length: given without extra_k_cache"):
                flash_mla.flash_mla_with_kvcache(*arguments)

    def test_metadata_of_another_thread(self):
        case, other = (torch_pool.Case((512, 64, 64), (512, 64, 2), b=b, topk_length=True) for b in (4, 3))
        metadata, _ = flash_mla.get_mla_metadata()
        want, _ = case.call(flash_mla, metadata)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            for _ in range(2):
                self.assertTrue(torch.equal(pool.submit(case.call, flash_mla, metadata).result()[0], want))
                self.assertNotEqual(metadata.thread, threading.get_ident())
            case.call(flash_mla, metadata)
            with self.assertRaisesRegex(dsv4.InvalidArgument, r"^q: shape \[3, 1, 64, 512\] with lists"):
                pool.submit(other.call, flash_mla, metadata).result()

    def test_threads_side_by_side(self):
        case = torch_pool.Case((512, 64, 64), (512, 64, 2), b=2, h_q=8)
        want, _ = case.call(flash_mla, flash_mla.get_mla_metadata()[0])

        def work():
            metadata, _ = flash_mla.get_mla_metadata()
            return all(torch.equal(case.call(flash_mla, metadata)[0], want) for _ in range(50))

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            self.assertTrue(all(future.result() for future in [pool.submit(work) for _ in range(4)]))

    def test_metadata_of_other_shapes(self):
        metadata, _ = flash_mla.get_mla_metadata()
        torch_pool.Case((512, 64, 64), b=3).call(flash_mla, metadata)
        with self.assertRaisesRegex(dsv4.InvalidArgument, r"^q: shape \[4, 1, 64, 512\], expected \[3, 1, 64, 512\]"):
            torch_pool.Case((512, 64, 64)).call(flash_mla, metadata)

    def test_other_functions_are_named(self):
        with self.assertRaisesRegex(AttributeError, "sparse FP8 decode alone, not flash_mla_sparse_fwd"):
            flash_mla.flash_mla_sparse_fwd


class GpuRun(unittest.TestCase):
    def test_it_has_the_tests_of_both(self):
        found = str(run_gpu.suite([]))
        for name in ("test_python_torch.Operators", "test_python_attn.Answers", "gpu_attn.Graphs", "gpu_flash_mla.Grid",
                     "gpu_operators.Operators"):
            self.assertIn(name, found)
        self.assertNotIn("_FailedTest", found)
        self.assertNotIn("gpu_attn", str(run_gpu.suite(["gpu_operators.Operators.test_graph"])))


if __name__ == "__main__":
    unittest.main()
