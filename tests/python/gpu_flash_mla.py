"""dsv4.flash_mla on a GPU: FlashMLA's grid for V4 by its tolerances, small head counts, graphs, the time of a call."""
import inspect
import os
import statistics
import time
import unittest

import torch

import torch_pool
from dsv4 import flash_mla

try:
    import flash_mla as peer
except ImportError:
    peer = None

DEVICE = "cuda:0"
MAX_TIMES_PEER = 1.2
N_WARM, N_RUNS, N_CALLS = 5, 25, 100


class Grid(unittest.TestCase):
    def setUp(self):
        self.addCleanup(setattr, torch.backends.cuda.matmul, "allow_tf32", torch.backends.cuda.matmul.allow_tf32)
        torch.backends.cuda.matmul.allow_tf32 = False

    def failures(self, cases):
        for i, arguments in enumerate(cases):
            case = torch_pool.Case(device=DEVICE, seed=i, **arguments)
            metadata, _ = flash_mla.get_mla_metadata()
            out, lse = case.call(flash_mla, metadata)
            torch.cuda.synchronize()
            failure = case.failure(out, lse)
            if failure is not None:
                yield f"{arguments}: {failure}"

    def test_grid(self):
        cases, wanted = list(torch_pool.grid()), os.environ.get("DSV4_TEST_CASES", "300")
        if wanted != "all":
            # Evenly spread; the step has no factor in common with the grid's own.
            step = max(1, len(cases) // int(wanted)) | 1
            cases = cases[::step]
        failures = list(self.failures(cases))
        print(f"{len(cases) - len(failures)} of {len(cases)} cases of FlashMLA's grid for V4 ... ", end="")
        self.assertEqual(failures[:5], [])

    def test_what_flash_mla_refuses(self):
        self.assertEqual(list(self.failures(
            {"window": (1024, topk, 64), "extra": (1024, extra, 2), "b": 20, "s_q": s_q, "h_q": h_q,
             "topk_length": True}
            for h_q in (1, 8, 12, 16, 32, 48, 96) for topk, extra in ((128, 512), (100, 7), (1, 65))
            for s_q in (1, 2))), [])

    @unittest.skipIf(peer is None, "no flash_mla to compare with")
    def test_signature_is_the_peers(self):
        theirs = inspect.signature(peer.flash_mla_with_kvcache).parameters.values()
        ours = inspect.signature(flash_mla.flash_mla_with_kvcache).parameters
        self.assertEqual([(p.name, p.kind, p.default) for p in theirs],
                         [(p.name, p.kind, p.default) for p in ours.values()][:len(theirs)])

    @unittest.skipIf(peer is None, "no flash_mla to compare with")
    def test_results_are_the_peers(self):
        case = torch_pool.Case((1024, 128, 256), (2046, 512, 64), b=20, s_q=2, device=DEVICE, topk_length=True,
                               zero_length=True)
        out, lse = case.call(flash_mla, flash_mla.get_mla_metadata()[0])
        their_out, their_lse = case.call(peer, peer.get_mla_metadata()[0])
        for ours, theirs in ((out, their_out), (lse, their_lse)):
            self.assertEqual((ours.shape, ours.dtype, ours.stride()), (theirs.shape, theirs.dtype, theirs.stride()))
        self.assertIsNone(case.failure(their_out, their_lse))
        self.assertTrue(torch.equal(lse.isinf(), their_lse.isinf()))
        self.assertLess((out.float() - their_out.float()).abs().max().item(), 2e-2)

    def test_graph(self):
        case = torch_pool.Case((1024, 128, 256), (2046, 512, 64), b=7, device=DEVICE, topk_length=True)
        case.call(flash_mla, flash_mla.get_mla_metadata()[0])
        graph, lengths = torch.cuda.CUDAGraph(), case.scopes[0].topk_length
        metadata, _ = flash_mla.get_mla_metadata()
        with torch.cuda.graph(graph):  # the first call builds the plan inside; the second layer shares it
            case.call(flash_mla, metadata)
            out, lse = case.call(flash_mla, metadata)
        longest = lengths.clone()  # what is behind them is NaN
        for length in (128, 0, 5):
            lengths.copy_(longest.clamp(max=length))
            want, want_lse = case.call(flash_mla, flash_mla.get_mla_metadata()[0])
            graph.replay()
            self.assertTrue(want.isfinite().all())
            self.assertTrue(torch.equal(out, want) and torch.equal(lse, want_lse), length)


def in_words(times):
    """Median and spread of sorted times."""
    return f"median {statistics.median(times):.1f} us, {times[0]:.1f} .. {times[-1]:.1f}"


class Latency(unittest.TestCase):
    """Calls from Python, graph off. The host is shared, and not the same from one second to the next: libraries take turns."""

    def run_us(self, module, arguments):
        """Microseconds of a call: of one run of N_CALLS, which ends with the device."""
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(N_CALLS):
            module.flash_mla_with_kvcache(*arguments)
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) * 1e6 / N_CALLS

    def test_calls_from_python(self):
        modules = [flash_mla] + ([peer] if peer is not None else [])
        for b in (1, 8):
            case = torch_pool.Case((1024, 128, 256), (1024, 512, 64), b=b, device=DEVICE, varlen=False)
            arguments = [case.arguments(module.get_mla_metadata()[0]) for module in modules]
            rounds = [[self.run_us(*pair) for pair in zip(modules, arguments)] for _ in range(N_WARM + N_RUNS)][N_WARM:]
            times = [sorted(column) for column in zip(*rounds)]
            print(f"\n  a call of {b} requests, {N_RUNS} runs of {N_CALLS}: {in_words(times[0])}; FlashMLA: ", end="")
            if peer is None:
                print("not installed ... ", end="")
                continue
            ratio = statistics.median(ours / theirs for ours, theirs in rounds)
            print(f"{in_words(times[1])}; ours over theirs {ratio:.2f} ... ", end="")
            self.assertLessEqual(ratio, MAX_TIMES_PEER)


if __name__ == "__main__":
    unittest.main()
