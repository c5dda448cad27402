"""The vLLM plugin: its seam in a real package's sources, and what it does to a stand-in.

DSV4_TEST_VLLM names folders of unpacked or installed vLLM packages (the folder that holds vllm/), separated by colons;
an installed package is found by itself. vLLM is not imported; of its code one method is run, cut out of its source.
"""
import __future__
import ast
import importlib
import importlib.util
import os
import sys
import tempfile
import types
import unittest
import unittest.mock

import attn_cases
import fake_vllm
from dsv4 import attn, vllm_plugin, vllm_seam
from dsv4.attn import Scope

try:
    import torch
except ImportError:
    torch = None


def packages():
    """Folders of real vLLM packages at hand."""
    folders = [os.path.join(folder, "vllm") for folder in os.environ.get("DSV4_TEST_VLLM", "").split(":") if folder]
    spec = importlib.util.find_spec("vllm") if not folders else None
    if spec is not None and spec.origin:
        folders.append(os.path.dirname(spec.origin))
    return folders


class Signatures(unittest.TestCase):
    def test_real_packages(self):
        folders = packages()
        if not folders:
            self.skipTest("no vLLM package: none is installed, and DSV4_TEST_VLLM names none")
        for folder in folders:
            version = vllm_seam.version_of(folder)
            self.assertIsNotNone(version, f"{folder}: no version")
            self.assertEqual(vllm_seam.differences(folder), [], f"vLLM {version}")
            if version in vllm_seam.ROCM_VERSIONS:
                self.assertEqual(vllm_seam.differences(folder, vllm_seam.ROCM), [], f"vLLM {version} on ROCm")
            self.assertIn(version, vllm_seam.KNOWN_VERSIONS, "fits, but is not listed: add it, and to docs/python.md")
            with open(os.path.join(folder, "plugins", "__init__.py"), encoding="utf-8") as file:
                self.assertIn(f'"{vllm_seam.PLUGIN_GROUP}"', file.read(), f"vLLM {version}")

    def test_versions_stand_in_the_documentation(self):
        with open(os.path.join(attn_cases.ROOT, "docs", "python.md"), encoding="utf-8") as file:
            text = file.read()
        for version in vllm_seam.KNOWN_VERSIONS:
            self.assertIn(version, text)

    def differences(self, changes, seam=vllm_seam.CUDA):
        with tempfile.TemporaryDirectory() as folder:
            return "; ".join(vllm_seam.differences(fake_vllm.write(folder, changes), seam))

    def test_differences_are_named(self):
        layer = fake_vllm.LAYER_FILE
        self.assertEqual(self.differences({}), "")
        self.assertIn("_forward_decode(self, q, kv_cache, swa_metadata, attn_metadata, output), expected",
                      self.differences({layer: ("swa_only, output", "output")}))
        self.assertIn("no class DeepseekV4FlashMLAAttention",
                      self.differences({layer: ("DeepseekV4FlashMLAAttention", "Other")}))
        self.assertIn("has no method _forward_decode", self.differences({layer: ("_forward_decode", "_decode")}))
        self.assertIn("is called with 0 positional arguments and (attn_sink, block_table, cache_seqlens, extra_indices",
                      self.differences({layer: ("block_table=None, ", "block_table=None, new=1, ")}))
        self.assertIn("is not imported by name", self.differences({layer: ("import flash_mla_with", "import f as f_")}))
        self.assertIn("self.n_local_heads is not set",
                      self.differences({vllm_seam.ATTENTION_FILE: ("self.n_local_heads =", "heads =")}))
        self.assertIn("heads that are padding may be read",
                      self.differences({vllm_seam.ATTENTION_FILE: ("[:, : self.n_local_heads, :]", "")}))
        self.assertIn("can hold further attributes", self.differences(
            {vllm_seam.METADATA_FILE: ("@dataclasses.dataclass", "@dataclasses.dataclass(slots=True)")}))
        self.assertIn("cannot read vLLM's sources", "".join(vllm_seam.differences("/nowhere")))
        self.assertIn("cannot read vLLM's sources", self.differences({layer: ("class", "\0class")}))

    def test_differences_of_rocm_are_named(self):
        def differences(old, new):
            return self.differences({fake_vllm.ROCM_LAYER_FILE: (old, new)}, vllm_seam.ROCM)

        self.assertEqual(differences("", ""), "")
        self.assertIn("no class DeepseekV4ROCMAiterMLAAttention", differences("ROCMAiter", "ROCM"))
        self.assertIn("attn_metadata, swa_only, output), expected",
                      differences("output,\n                        adaptive_splits=False)", "output)"))
        self.assertIn("rocm_sparse_attn_decode is called with 0 positional", differences("scale=1.0, ", ""))

    def test_version(self):
        with tempfile.TemporaryDirectory() as folder:
            package = fake_vllm.write(folder)
            self.assertEqual(vllm_seam.version_of(package), "9.9.9")
            for broken in (b"__version__ = '\xff'\n", b"__version__ = '9\0'\n"):
                with open(os.path.join(package, "_version.py"), "wb") as file:
                    file.write(broken)
                self.assertIsNone(vllm_seam.version_of(package))


def real_layer(folder):
    """A module with the layer class of a real package, which has nothing but its own _forward_decode."""
    path = os.path.join(folder, *vllm_seam.CUDA.module.split(".")[1:]) + ".py"
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read(), path)
    layer, = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == vllm_seam.CUDA.layer]
    layer.bases, layer.decorator_list = [], []
    layer.body = [node for node in layer.body if getattr(node, "name", None) == vllm_seam.CUDA.method]
    module = types.ModuleType("layer")
    flags = __future__.annotations.compiler_flag  # types are names of what is not there
    exec(compile(ast.Module([layer], []), path, "exec", flags), module.__dict__)
    return module, getattr(module, vllm_seam.CUDA.layer)


@unittest.skipIf(torch is None, "no torch")
class RealDecode(unittest.TestCase):
    """vLLM's own _forward_decode, cut out of its sources, on CPU tensors of a case with 16 heads."""

    def tensors(self):
        case = attn_cases.Case(os.path.join(attn_cases.FOLDER, "extra-page2.safetensors"))

        def cache(pages, rows):
            pages = torch.from_numpy(pages)
            return torch.as_strided(pages, (len(pages), rows, 584), (pages.stride(0), 584, 1))

        q = torch.zeros(len(case.q), 64, 512, dtype=torch.bfloat16)
        q[:, :16] = torch.from_numpy(attn_cases.from_bf16(case.q[:, 0]))
        return case, q, cache(case.window[0], case.window[3]), cache(case.extra[0], case.extra[3])

    def run_layer(self, folder, ratio):
        """(out of the heads that are there, all of output, case)"""
        module, layer = real_layer(folder)
        case, q, window, extra = self.tensors()
        n, indices = len(q), torch.from_numpy(case.extra[1])
        lengths = torch.full((n,), indices.shape[-1], dtype=torch.int32)
        module.compute_global_topk_indices_and_lens = lambda *_: (indices.view(n, -1), lengths)
        vllm_plugin.switch_on(module, layer)
        self_ = layer()
        self_.n_local_heads, self_.compress_ratio, self_.scale = 16, ratio, case.scale
        self_.attn_sink = torch.full((64,), -float("inf"))
        if case.sink is not None:
            self_.attn_sink[:16] = torch.from_numpy(case.sink)
        self_.topk_indices_buffer = torch.zeros(n, indices.shape[-1], dtype=torch.int32)
        self_.swa_cache_layer = types.SimpleNamespace(kv_cache=window)
        schedule = types.SimpleNamespace()
        swa = types.SimpleNamespace(
            num_decodes=n, num_decode_tokens=n, is_valid_token=torch.ones(n, dtype=torch.bool),
            token_to_req_indices=torch.arange(n), decode_swa_indices=torch.from_numpy(case.window[1]),
            decode_swa_lens=torch.full((n,), case.window[1].shape[-1], dtype=torch.int32), tile_sched_swaonly=schedule,
            tile_sched_c4a=schedule, tile_sched_c128a=schedule)
        mla = types.SimpleNamespace(
            block_size=256, block_table=torch.zeros(n, 1, dtype=torch.int32),
            c128a_global_decode_topk_indices=indices, c128a_decode_topk_lens=lengths)
        output = torch.full_like(q, float("nan"))
        self_._forward_decode(q=q, kv_cache=extra if ratio > 1 else None, swa_metadata=swa,
                              attn_metadata=mla if ratio > 1 else None, swa_only=ratio <= 1, output=output)
        return output, case

    def test_every_type_of_layer(self):
        folders = packages()
        if not folders:
            self.skipTest("no vLLM package: none is installed, and DSV4_TEST_VLLM names none")
        for folder in folders:
            for ratio in (1, 4, 128):
                output, case = self.run_layer(folder, ratio)
                want = case.out
                if ratio == 1:
                    window = Scope(*case.window)
                    want, _ = attn.decode(case.q, window, sink=case.sink, softmax_scale=case.scale, math="exact",
                                          out_dtype="f32")
                error, _ = attn_cases.apart(output[:, :16].float().numpy()[:, None], want, case.lse, case.lse)
                self.assertLess(error, 2.0**-8, f"{folder}, ratio {ratio}")
                self.assertTrue(output[:, 16:].isnan().all(), "heads that are padding are computed")


class StandIn(unittest.TestCase):
    """The plugin in a process that imports the stand-in."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        sys.path.insert(0, self.folder.name)
        self.addCleanup(sys.path.remove, self.folder.name)
        self.addCleanup(self.forget)
        self.refusal = vllm_plugin.device_refusal
        self.addCleanup(setattr, vllm_plugin, "device_refusal", self.refusal)

    def forget(self):
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, vllm_plugin._AfterImport)]
        for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
            del sys.modules[name]
        importlib.invalidate_caches()

    def layer(self, changes=None, heads=16):
        """A layer made after register(), and the log."""
        fake_vllm.write(self.folder.name, changes)
        importlib.invalidate_caches()
        with self.assertLogs("vllm.dsv4") as log:
            vllm_plugin.register()
            vllm_plugin.register()
            module = importlib.import_module(vllm_seam.CUDA.module)
            sink = None if torch is None else torch.zeros(64)
            layer = module.DeepseekV4FlashMLAAttention(heads, sink)
            module.DeepseekV4FlashMLAAttention(heads, sink)
        self.assertEqual(len(log.output), 1, log.output)
        return module, layer, log.output[0]

    def test_a_device_that_cannot_is_named(self):
        vllm_plugin.device_refusal = lambda: "backend: cuda, but the device is sm_75: expected sm_80 or later"
        module, layer, line = self.layer()
        self.assertIn("off, the decode attention stays vLLM's: backend: cuda, but the device is sm_75", line)
        with self.assertRaisesRegex(RuntimeError, "the stand-in has no kernel"):
            module.flash_mla_with_kvcache()
        with self.assertRaisesRegex(RuntimeError, "the stand-in has no kernel"):
            layer._forward_decode(*self.arguments(layer)[0])

    def test_this_machine_is_asked(self):
        refusal = vllm_plugin.device_refusal()
        if refusal is not None:
            self.assertRegex(refusal, "cuda|sm90")

    def test_other_devices_than_hopper(self):
        for kernel, expected in (("sm90", "None"), ("mma", "would be mma, expected sm90")):
            with unittest.mock.patch.object(attn, "choose", lambda backend, kernel=kernel: {"kernel": kernel}):
                self.assertIn(expected, str(vllm_plugin.device_refusal()))

    def test_sources_that_differ_are_left_alone(self):
        vllm_plugin.device_refusal = lambda: None
        _, _, line = self.layer({fake_vllm.LAYER_FILE: ("swa_only, output", "swa_only, output, more=None")})
        self.assertIn("WARNING", line)
        self.assertIn("output, more), expected", line)

    def test_whatever_fails_leaves_vllm_alone(self):
        vllm_plugin.device_refusal = lambda: None

        def fail(*_):
            raise AttributeError("mine")

        for name in ("install", "_decide", "switch_on", "device_refusal"):
            with unittest.mock.patch.object(vllm_plugin, name, fail):
                self.assertIn("off, the decode attention stays vLLM's: AttributeError: mine", self.layer()[2])
            self.forget()
        importlib.import_module(vllm_seam.CUDA.module)
        with unittest.mock.patch.object(vllm_seam, "differences", fail), self.assertLogs("vllm.dsv4") as log:
            vllm_plugin.register()
        self.assertIn("off, the decode attention stays vLLM's: AttributeError: mine", log.output[0])

    def test_sources_that_cannot_be_decoded(self):
        vllm_plugin.device_refusal = lambda: None
        write = fake_vllm.write

        def write_latin(folder, changes):
            path = os.path.join(write(folder, changes), vllm_seam.ATTENTION_FILE)
            with open(path, encoding="utf-8") as file:
                text = "# -*- coding: latin-1 -*-\n# \xe9\n" + file.read()
            with open(path, "w", encoding="latin-1") as file:
                file.write(text)

        with unittest.mock.patch.object(fake_vllm, "write", write_latin):
            self.assertIn("off, the decode attention stays vLLM's: cannot read vLLM's sources: ", self.layer()[2])

    def test_a_loader_of_another_kind(self):
        spec, finder = types.SimpleNamespace(loader=object()), vllm_plugin._AfterImport("vllm.any", self.fail)
        sys.meta_path.insert(0, finder)
        with unittest.mock.patch.object(importlib.util, "find_spec", lambda _: spec):
            with self.assertLogs("vllm.dsv4") as log:
                self.assertIs(finder.find_spec("vllm.any"), spec)
        self.assertIn("off, the decode attention stays vLLM's: AttributeError", log.output[0])

    def test_rocm_is_refused(self):
        fake_vllm.write(self.folder.name)
        importlib.invalidate_caches()
        vllm_plugin.register()
        with self.assertLogs("vllm.dsv4") as log:
            module = importlib.import_module(vllm_seam.ROCM.module)
        self.assertEqual(len(log.output), 1, log.output)
        self.assertIn("stays vLLM's: dsv4's kernels for ROCm have never run on an AMD GPU", log.output[0])
        self.assertNotIn("dsv4", repr(vars(module.DeepseekV4ROCMAiterMLAAttention)))

    def test_the_log_names_a_version_that_was_not_checked(self):
        vllm_plugin.device_refusal = lambda: None
        with unittest.mock.patch.object(vllm_plugin, "switch_on", lambda *_: None):
            self.assertIn("layers is dsv4's; vLLM 9.9.9 fits, but is not one of those checked: 0.", self.layer()[2])
            self.forget()
            version = vllm_seam.KNOWN_VERSIONS[-1]
            self.assertRegex(self.layer({"_version.py": ("9.9.9", version)})[2], "layers is dsv4's$")

    def arguments(self, layer, extra=True):
        """Arguments of _forward_decode with a case's tensors, and the case."""
        if torch is None:
            self.skipTest("no torch")
        case = attn_cases.Case(os.path.join(attn_cases.FOLDER, "extra-page2.safetensors"))

        def cache(pages, rows):
            pages = torch.from_numpy(pages)
            return torch.as_strided(pages, (len(pages), rows, 1, 584), (pages.stride(0), 584, 584, 1))

        n_tokens, n_queries, n_heads = case.q.shape[:3]
        self.assertEqual((n_queries, n_heads), (1, layer.n_local_heads))
        q = torch.zeros(n_tokens, 64, 512, dtype=torch.bfloat16)
        q[:, :n_heads] = torch.from_numpy(attn_cases.from_bf16(case.q[:, 0]))
        output = torch.full_like(q, float("nan"))
        layer.scale = case.scale
        layer.attn_sink[:n_heads] = torch.from_numpy(case.sink) if case.sink is not None else -float("inf")
        from vllm.third_party.flashmla.flash_mla_interface import FlashMLASchedMeta
        window = types.SimpleNamespace(cache=cache(case.window[0], case.window[3]), schedule=FlashMLASchedMeta(),
                                       indices=torch.from_numpy(case.window[1]), lengths=None)
        other = types.SimpleNamespace(indices=torch.from_numpy(case.extra[1]), lengths=None)
        return (q, cache(case.extra[0], case.extra[3]), window, other, not extra, output), case

    @unittest.skipIf(torch is None, "no torch")
    def test_the_decode_is_ours(self):
        vllm_plugin.device_refusal = lambda: None
        _, layer, line = self.layer()
        self.assertIn("INFO", line)
        self.assertIn("on, the decode attention of DeepSeek-V4 layers is dsv4's", line)
        arguments, case = self.arguments(layer)
        plans = set()
        for _ in range(2):
            arguments[-1].fill_(float("nan"))
            layer._forward_decode(*arguments)
            out = arguments[-1][:, :16].float().numpy()[:, None]
            self.assertLess(attn_cases.apart(out, case.out, case.lse, case.lse)[0], 2.0**-8)
            self.assertTrue(arguments[-1][:, 16:].isnan().all(), "heads that are padding are computed")
            plans.add(id(arguments[2].schedule.dsv4.workspace))
        self.assertEqual(len(plans), 1, "layers of a step share a plan")
        arguments[-1].fill_(float("nan"))
        arguments[2].schedule.dsv4 = None  # another step
        layer._forward_decode(q=arguments[0], kv_cache=None, swa_metadata=arguments[2], attn_metadata=None,
                              swa_only=True, output=arguments[-1])
        self.assertFalse(arguments[-1][:, :16].isnan().any())


if __name__ == "__main__":
    unittest.main()
