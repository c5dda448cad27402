"""torch.ops.dsv4 on a GPU: opcheck, torch.compile, CUDA graphs, side streams."""
import unittest

import torch

import dsv4
import torch_keys
import torch_pool
from dsv4 import torch_ops  # noqa: F401  (registers the operators)
from dsv4.attn import Plan, Scope

DEVICE = "cuda:0"
OPS = torch.ops.dsv4


def arguments(**options):
    case = torch_pool.Case((1024, 128, 256), (2046, 512, 64), b=5, h_q=16, device=DEVICE, topk_length=True,
                           extra_topk_length=True, **options)
    scopes = [part for s in case.scopes for part in (s.pool.cache(), s.indices, s.topk_length)]
    return [case.q, *scopes, case.sink]


class Operators(unittest.TestCase):
    def setUp(self):
        self.args = arguments()
        self.want, self.want_lse = OPS.sparse_mla_decode(*self.args)

    def opcheck(self, operator, *args, **kwargs):
        self.assertEqual(set(torch.library.opcheck(operator, args, kwargs).values()), {"SUCCESS"})

    def test_opcheck(self):
        args = self.args
        self.opcheck(OPS.sparse_mla_decode.default, *args, fixed_split=True)
        plan = Plan(args[0], Scope(*args[1:4]), Scope(*args[4:7]))
        out, lse = torch.empty_like(self.want), torch.empty_like(self.want_lse)
        self.opcheck(OPS.sparse_mla_decode_out.default, *args, out=out, lse=lse)
        self.opcheck(OPS.sparse_mla_decode_out.default, *args, out=out, lse=lse, plan=plan.memory,
                     workspace=plan.workspace)
        self.opcheck(OPS.sparse_mla_plan_build.default, *args[:7], plan=plan.memory)

    def test_opcheck_keys(self):
        args = torch_keys.Arguments(DEVICE)
        self.opcheck(OPS.keys_finish.default, *args.finish, out=torch.empty_like(args.finish[0]))
        self.opcheck(OPS.keys_compress.default, *args.compress)
        self.opcheck(OPS.keys_read.default, *args.read, out=args.back)

    def test_keys_compiled(self):
        for options in ({"backend": "aot_eager"}, {}, {"mode": "reduce-overhead"}):
            compiled = torch.compile(torch_keys.step, fullgraph=True, **options)
            for _ in range(3):
                self.assertIsNone(torch_keys.failure(compiled, DEVICE), options)

    def test_keys_in_a_graph(self):
        def run(*args):
            graph, before = torch.cuda.CUDAGraph(), [tensor.clone() for tensor in args]
            torch_keys.step(*args)  # kernels are loaded outside of the capture
            with torch.cuda.graph(graph):
                results = torch_keys.step(*args)
            for tensor, old in zip(args, before):
                tensor.copy_(old)
            graph.replay()
            torch.cuda.synchronize()  # the graph goes with this function
            return results

        self.assertIsNone(torch_keys.failure(run, DEVICE))

    def test_graph(self):
        args, graph = self.args, torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out, lse = OPS.sparse_mla_decode(*args)
        longest = args[3].clone()  # what is behind them is NaN
        for length in (1, 0, 128, 77):
            args[3].copy_(longest.clamp(max=length))
            want, want_lse = OPS.sparse_mla_decode(*args)
            graph.replay()
            self.assertTrue(want.isfinite().all())
            self.assertTrue(torch.equal(out, want) and torch.equal(lse, want_lse), length)

    def test_compiled(self):
        def step(*args):
            out, lse = OPS.sparse_mla_decode(*args)
            return out.float() * 2 + 1, lse

        for options in ({"backend": "aot_eager"}, {}, {"mode": "reduce-overhead"}):
            compiled = torch.compile(step, fullgraph=True, **options)
            for _ in range(3):
                out, lse = compiled(*self.args)
            self.assertTrue(torch.equal(out, self.want.float() * 2 + 1) and torch.equal(lse, self.want_lse), options)

    def test_compiled_with_outputs(self):
        def step(out, *args):
            OPS.sparse_mla_decode_out(*args, out=out)
            return out + 1

        out = torch.zeros_like(self.want)
        self.assertTrue(torch.equal(torch.compile(step, fullgraph=True)(out, *self.args), self.want + 1))
        self.assertTrue(torch.equal(out, self.want))

    def test_side_stream(self):
        late, stream = torch.zeros_like(self.args[0]), torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(100_000_000)
            late.copy_(self.args[0])
            out, _ = OPS.sparse_mla_decode(late, *self.args[1:])
            stream.synchronize()
        self.assertTrue(torch.equal(out, self.want))

    def test_wrong_inputs_are_named(self):
        for i, change, pattern in ((7, lambda t: t.cpu(), "^sink: on cpu, expected cuda:0"),
                                   (2, lambda t: t.long(), "^window_indices: dtype torch.int64"),
                                   (3, lambda t: t[:2], r"^window_lengths: shape \[2\]")):
            args = list(self.args)
            args[i] = change(args[i])
            with self.assertRaisesRegex(dsv4.InvalidArgument, pattern):
                OPS.sparse_mla_decode(*args)
        args = self.args
        plan = Plan(args[0], Scope(*args[1:4]), Scope(*args[4:7]))
        memory = {"plan": plan.memory, "workspace": plan.workspace}
        for name in memory:
            with self.assertRaisesRegex(dsv4.InvalidArgument, f"^{name}: on cpu, expected cuda:0 as the queries"):
                OPS.sparse_mla_decode_out(*args, out=self.want, **{**memory, name: memory[name].cpu()})
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^plan: on cpu, expected cuda:0 as the queries"):
            OPS.sparse_mla_plan_build(*args[:7], plan=plan.memory.cpu())


if __name__ == "__main__":
    unittest.main()
