"""dsv4.attn on numpy and on DLPack tensors: the case files' float64 answers, plans, merging, FP8 output, bad input."""
import ctypes
import gc
import os
import unittest

import numpy

import attn_cases
import dsv4
from attn_cases import Case, apart, e4m3, from_bf16, to_bf16
from dsv4 import attn, tensors
from dsv4.attn import Plan, Scope

CASES = [Case(path) for path in attn_cases.case_paths()]
BY_NAME = {case.name.replace(".safetensors", ""): case for case in CASES}
# Over all heads: f32 arithmetic in another order, and half a step of bf16 for probabilities and for outputs
# (include/dsv4/attn.h: 2^-9 over many heads, 2^-8 for any one).
MAX_EXACT, MAX_BF16, MAX_LSE = 2.0**-20, 2.0**-8, 2.0**-14


def scopes(case):
    return Scope(*case.window), Scope(*case.extra) if case.extra else None


class Answers(unittest.TestCase):
    def check(self, case, limit, **options):
        window, extra = scopes(case)
        plan = Plan(case.q, window, extra, **options)
        out, lse = plan.decode(case.q, window, extra, sink=case.sink, softmax_scale=case.scale)
        if out.dtype == numpy.uint16:
            out = from_bf16(out)
        error, lse_error = apart(out, case.out, lse, case.lse)
        self.assertLessEqual(error, limit, f"{case.name} {options}")
        self.assertLessEqual(lse_error, MAX_LSE, f"{case.name} {options}")

    def test_every_case_exact(self):
        self.assertGreaterEqual(len(CASES), 20)
        for case in CASES:
            self.check(case, MAX_EXACT, math="exact", out_dtype="f32")

    def test_every_case_with_what_auto_takes(self):
        for case in CASES:
            self.check(case, MAX_BF16)

    def test_backends_levels_and_threads(self):
        case = BY_NAME["sq3-extra"]
        self.check(case, MAX_EXACT, backend="ref", math="exact", out_dtype="f32")
        self.check(case, MAX_BF16, backend="cpu", n_threads=2)
        self.check(case, MAX_EXACT, cpu_level="v2", math="exact", out_dtype="f32")
        self.check(case, MAX_BF16, math="official")

    def test_queries_in_f32(self):
        case = BY_NAME["sq3-extra"]
        window, extra = scopes(case)
        out, lse = attn.decode(from_bf16(case.q), window, extra, sink=case.sink, softmax_scale=case.scale)
        self.assertEqual(out.dtype, numpy.float32)
        error, lse_error = apart(out, case.out, lse, case.lse)
        self.assertLessEqual(max(error, lse_error), MAX_LSE)


class Memory(unittest.TestCase):
    def setUp(self):
        self.case = BY_NAME["sq3-extra"]
        self.window, self.extra = scopes(self.case)
        self.options = {"sink": self.case.sink, "softmax_scale": self.case.scale}

    def test_outputs_of_the_caller_with_strides(self):
        case, shape = self.case, self.case.q.shape
        plan = Plan(case.q, self.window, self.extra, out_dtype="f32", math="exact")
        want, want_lse = plan.decode(case.q, self.window, self.extra, **self.options)
        wide = numpy.full((shape[0], shape[2], shape[1], 520), 7, numpy.float32)
        out = wide.transpose(0, 2, 1, 3)[..., 4:516]
        lse = numpy.full((shape[0], shape[2], shape[1]), 7, numpy.float32).transpose(0, 2, 1)
        got = plan.decode(case.q, self.window, self.extra, out=out, lse=lse, **self.options)
        self.assertIs(got[0], out)
        self.assertIs(got[1], lse)
        numpy.testing.assert_array_equal(out, want)
        numpy.testing.assert_array_equal(lse, want_lse)
        self.assertTrue((wide[..., :4] == 7).all() and (wide[..., 516:] == 7).all())

    def test_queries_and_lists_with_strides(self):
        case = self.case
        want, _ = attn.decode(case.q, self.window, self.extra, **self.options)
        q = numpy.zeros((*case.q.shape[:3], 600), numpy.uint16)[..., 40:552]
        q[...] = case.q
        indices = numpy.full((*self.window.indices.shape[:2], 999), -5, numpy.int32)[..., :case.window[1].shape[-1]]
        indices[...] = self.window.indices
        got, _ = attn.decode(q, self.window._replace(indices=indices), self.extra, **self.options)
        numpy.testing.assert_array_equal(got, want)

    def test_pages_by_shape_and_by_page_rows(self):
        case = self.case
        pages, rows = case.window[0], case.window[3]
        want, _ = attn.decode(case.q, self.window, self.extra, **self.options)
        stride = pages.strides[0]
        for shape, strides in (((len(pages), rows, 584), (stride, 584, 1)),
                               ((len(pages), rows, 1, 584), (stride, 584, 584, 1))):
            cache = numpy.lib.stride_tricks.as_strided(pages, shape, strides)
            got, _ = attn.decode(case.q, Scope(cache, self.window.indices, self.window.lengths), self.extra,
                                 **self.options)
            numpy.testing.assert_array_equal(got, want)

    def test_nothing_but_out_is_made_without_lse(self):
        case = self.case
        plan = Plan(case.q, self.window, self.extra)
        out = numpy.empty(case.q.shape, numpy.uint16)
        self.assertIsNone(plan.decode(case.q, self.window, self.extra, out=out, **self.options)[1])

    def test_either_scope_may_be_absent(self):
        case = self.case
        want, want_lse = attn.decode(case.q, self.extra, **self.options)
        got, lse = attn.decode(case.q, Scope(None, None), self.extra, **self.options)
        numpy.testing.assert_array_equal(got, want)
        numpy.testing.assert_array_equal(lse, want_lse)
        nothing, lse = attn.decode(case.q, Scope(None, None), **self.options)
        self.assertTrue((nothing == 0).all() and numpy.isposinf(lse).all())

    def test_no_requests(self):
        case = self.case
        window = Scope(self.window.cache, self.window.indices[:0], None, self.window.page_rows)
        self.assertEqual(attn.decode(case.q[:0], window)[0].shape, (0, *case.q.shape[1:]))

    def test_memory_of_the_caller(self):
        case = self.case
        probe = Plan(case.q, self.window, self.extra)
        n_plan, n_workspace = probe.sizes()
        blocks = []
        for n_bytes in (n_plan, n_workspace):
            block = numpy.zeros(n_bytes + 64, numpy.uint8)
            start = -block.ctypes.data % 64
            blocks.append(block[start:start + n_bytes])
        plan = Plan(case.q, self.window, self.extra, memory=blocks[0], workspace=blocks[1])
        self.assertIs(plan.memory, blocks[0])
        want, _ = probe.decode(case.q, self.window, self.extra, **self.options)
        got, _ = plan.decode(case.q, self.window, self.extra, **self.options)
        numpy.testing.assert_array_equal(got, want)
        self.assertTrue(blocks[0].any())
        with self.assertRaisesRegex(dsv4.InvalidArgument, "plan"):
            Plan(case.q, self.window, self.extra, memory=blocks[0][:8], workspace=blocks[1])

    def test_a_plan_is_built_again_when_lengths_change(self):
        case = BY_NAME["sq2-lengths"]
        window, _ = scopes(case)
        lengths = window.lengths.copy()
        plan = Plan(case.q, window)
        window = window._replace(lengths=lengths)
        lengths[:] = 3
        plan.build(window)
        got, _ = plan.decode(case.q, window)
        want, _ = attn.decode(case.q, Scope(window.cache, window.indices[..., :3], None, window.page_rows))
        numpy.testing.assert_allclose(from_bf16(got), from_bf16(want), atol=2e-2)

    def test_a_plan_serves_other_tensors_of_its_shape(self):
        case = self.case
        plan = Plan(case.q, self.window, self.extra)
        q = to_bf16(from_bf16(case.q) * 0.5)
        want, _ = attn.decode(q, self.window, self.extra, **self.options)
        plan.decode(case.q, self.window, self.extra, **self.options)
        got, _ = plan.decode(q, self.window, self.extra, **self.options)
        numpy.testing.assert_array_equal(got, want)

    def test_memory_does_not_grow(self):
        case = BY_NAME["h8-page64"]
        window, _ = scopes(case)
        plan = Plan(case.q, window)
        out = numpy.empty(case.q.shape, numpy.uint16)

        def resident_pages():
            with open("/proc/self/statm", encoding="ascii") as file:
                return int(file.read().split()[1])

        def run(n):
            for _ in range(n):
                plan.decode(case.q, window, sink=case.sink, out=out)
            gc.collect()

        run(200)
        before = resident_pages()
        run(1000)
        self.assertLess((resident_pages() - before) * os.sysconf("SC_PAGE_SIZE"), 1 << 20)


class Dlpack:
    """A tensor that speaks nothing but DLPack."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **kwargs):
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class Unversioned(Dlpack):
    """A tensor of a library from before DLPack 1.0."""

    def __dlpack__(self, *, stream=None):
        return self._array.__dlpack__(stream=stream)


class Versioned(Dlpack):
    """A tensor of DLPack 1.x, with version and flags, made by hand: numpy 1.24 gives no such capsule."""

    NAME = b"dltensor_versioned"
    READONLY, COPIED = 1, 2

    def __init__(self, array, flags=0, code=None, major=1, name=NAME):
        super().__init__(array)
        n = array.ndim
        code = {"i": 0, "u": 1, "f": 2}[array.dtype.kind] if code is None else code
        self._shape = (ctypes.c_int64 * n)(*array.shape)
        self._strides = (ctypes.c_int64 * n)(*(stride // array.itemsize for stride in array.strides))
        tensor = tensors._DLTensor(array.ctypes.data, 1, 0, n, code, array.itemsize * 8, 1, self._shape, self._strides)
        self._managed = tensors._DLManagedTensorVersioned(major, 0, None, None, flags, tensor)
        self._name = name

    def __dlpack__(self, *, stream=None, max_version=None):
        assert stream is None and max_version[0] == 1
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return make(ctypes.addressof(self._managed), self._name, None)


class OtherTensors(unittest.TestCase):
    def test_dlpack(self):
        case = BY_NAME["sq3-extra"]
        window, extra = scopes(case)
        out, lse = numpy.empty(case.q.shape, numpy.float32), numpy.empty(case.q.shape[:3], numpy.float32)

        def wrapped(scope):
            return Scope(Dlpack(scope.cache), Dlpack(scope.indices), scope.lengths, scope.page_rows)

        wide = numpy.full((*window.indices.shape[:2], window.indices.shape[2] + 9), -1, numpy.int32)
        wide[..., :-9] = window.indices
        window = window._replace(indices=wide[..., :-9])
        plan = Plan(Dlpack(case.q), wrapped(window), wrapped(extra), out_dtype="f32", math="exact")
        plan.decode(Unversioned(case.q), wrapped(window), wrapped(extra), out=Dlpack(out), lse=Dlpack(lse),
                    sink=None if case.sink is None else Dlpack(case.sink), softmax_scale=case.scale)
        error, lse_error = apart(out, case.out, lse, case.lse)
        self.assertLessEqual(error, MAX_EXACT)
        self.assertLessEqual(lse_error, MAX_LSE)

    def test_dlpack_with_a_version(self):
        case = BY_NAME["sq3-extra"]
        window, extra = scopes(case)
        options = {"sink": case.sink, "softmax_scale": case.scale}
        plan = Plan(case.q, window, extra, out_dtype="f32", math="exact")
        want, _ = plan.decode(case.q, window, extra, **options)

        def given(array):
            return Versioned(array, Versioned.READONLY)

        fp8 = Versioned(window.cache, Versioned.READONLY, code=10)
        window = window._replace(cache=fp8, indices=given(window.indices))
        extra = extra._replace(cache=given(extra.cache), indices=given(extra.indices))
        out = numpy.zeros_like(want)
        plan.decode(given(case.q), window, extra, out=Versioned(out), **options)
        numpy.testing.assert_array_equal(out, want)
        for pattern, wrong in (("^out: read-only", given(out)),
                               ("^out: its library gives a copy", Versioned(out, Versioned.COPIED)),
                               ("^out: its library does not .*: version 2.0, expected 1", Versioned(out, major=2)),
                               ("^out: its library does not give it as DLPack: ", Versioned(out, name=b"tensor")),
                               ("^out: dtype code 12 of 32 bits, expected f32", Versioned(out, code=12))):
            with self.assertRaisesRegex(dsv4.InvalidArgument, pattern):
                plan.decode(case.q, window, extra, out=wrong, **options)

    def test_what_cannot_be_exported(self):
        case = BY_NAME["h8-page64"]
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^q: its library does not give it as DLPack"):
            Plan(Dlpack(numpy.zeros((1, 1, 1, 512), numpy.dtype("S2"))), Scope(*case.window))

    def test_what_is_no_tensor(self):
        case = BY_NAME["h8-page64"]
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^q: a list, expected a tensor"):
            Plan([1, 2], Scope(*case.window))


class Merging(unittest.TestCase):
    def test_parts_of_the_list_make_the_whole(self):
        case = BY_NAME["sq3-extra"]
        window, extra = scopes(case)
        options = {"math": "exact", "out_dtype": "f32", "softmax_scale": case.scale}
        parts = [attn.decode(case.q, window, None, **options), attn.decode(case.q, extra, None, **options)]
        sink = numpy.linspace(-1, 1, case.q.shape[2]).astype(numpy.float32)
        want, want_lse = attn.decode(case.q, window, extra, sink=sink, **options)
        out, lse = attn.merge(numpy.stack([p[0] for p in parts]), numpy.stack([p[1] for p in parts]), sink=sink)
        error, lse_error = apart(out, want, lse, want_lse)
        self.assertLess(max(error, lse_error), 1e-5)
        given = numpy.empty(want.shape, numpy.uint16)
        attn.merge(numpy.stack([p[0] for p in parts]), numpy.stack([p[1] for p in parts]), sink=sink, out=given)
        self.assertLess(apart(from_bf16(given), want, lse, want_lse)[0], MAX_BF16)

    def test_wrong_shapes(self):
        with self.assertRaisesRegex(dsv4.InvalidArgument, r"^out_parts: shape \[2, 512\]"):
            attn.merge(numpy.zeros((2, 512), numpy.float32), numpy.zeros(2, numpy.float32))
        with self.assertRaisesRegex(dsv4.InvalidArgument, r"^lse_parts: shape \[2, 3\], expected \[2, 3, 4\]"):
            attn.merge(numpy.zeros((2, 3, 4, 512), numpy.float32), numpy.zeros((2, 3), numpy.float32))


class Epilogue(unittest.TestCase):
    def test_rotation(self):
        case = BY_NAME["sq3-extra"]
        window, extra = scopes(case)
        angles = numpy.linspace(0, 3, 7 * 32).reshape(7, 32)
        table = numpy.concatenate([numpy.cos(angles), numpy.sin(angles)], 1).astype(numpy.float32)
        rows = (numpy.arange(case.q.shape[0] * case.q.shape[1]) % 7).astype(numpy.int32).reshape(case.q.shape[:2])
        options = {"math": "exact", "out_dtype": "f32", "softmax_scale": case.scale}
        plain, _ = attn.decode(case.q, window, extra, **options)
        out, _ = attn.decode(case.q, window, extra, rope_table=table, rope_rows=rows, **options)
        pairs = plain[..., 448:].astype(numpy.float64).reshape(*plain.shape[:3], 32, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * numpy.exp(-1j * angles[rows])[:, :, None]
        numpy.testing.assert_allclose(out[..., 448:].reshape(pairs.shape),
                                      numpy.stack([turned.real, turned.imag], -1), atol=1e-5)
        numpy.testing.assert_array_equal(out[..., :448], plain[..., :448])

    def test_fp8_output(self):
        case = BY_NAME["h8-page64"]
        window, _ = scopes(case)
        plain, _ = attn.decode(case.q, window, math="exact", out_dtype="f32")
        scales = numpy.zeros((*case.q.shape[:3], 4), numpy.uint8)
        codes, _ = attn.decode(case.q, window, math="exact", out_dtype="fp8", out_scales=scales)
        values = numpy.array([e4m3(code) for code in range(256)])[codes].reshape(*scales.shape, 128)
        out = (values * 2.0**(scales.astype(float) - 127)[..., None]).reshape(plain.shape)
        self.assertLess(numpy.linalg.norm(out - plain) / numpy.linalg.norm(plain), 2.0**-4)
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^out_scales: not given"):
            attn.decode(case.q, window, out_dtype="fp8")


class BadInput(unittest.TestCase):
    def setUp(self):
        self.case = BY_NAME["sq3-extra"]
        self.window, self.extra = scopes(self.case)
        self.q = self.case.q
        self.plan = Plan(self.q, self.window, self.extra)

    def refused(self, pattern, **changes):
        arguments = {"q": self.q, "window": self.window, "extra": self.extra, **changes}
        with self.assertRaisesRegex(dsv4.InvalidArgument, pattern):
            self.plan.decode(**arguments)

    def test_dtypes(self):
        self.refused("^q: dtype <f8, expected bf16 or u16", q=self.q.astype(numpy.float64))
        self.refused("^window.indices: dtype <i8, expected i32",
                     window=self.window._replace(indices=self.window.indices.astype(numpy.int64)))
        self.refused("^window.cache: dtype <i2, expected u8", window=self.window._replace(
            cache=self.window.cache.astype(numpy.int16)))
        self.refused("^window.lengths: dtype f32, expected i32",
                     window=self.window._replace(lengths=numpy.zeros(self.q.shape[0], numpy.float32)))
        self.refused("^out: dtype f32, expected bf16 or u16", out=numpy.empty(self.q.shape, numpy.float32))
        self.refused("^sink: dtype <f8, expected f32", sink=numpy.zeros(self.q.shape[2]))

    def test_shapes(self):
        self.refused(r"^q: shape \[2, 3, 7, 512\], expected \[2, 3, 8, 512\]", q=self.q[:, :, :7])
        self.refused(r"^extra.indices: shape \[2, 3, 10\], expected",
                     extra=self.extra._replace(indices=self.extra.indices[..., :10]))
        self.refused(r"^sink: shape \[9\], expected \[8\]", sink=numpy.zeros(9, numpy.float32))
        self.refused(r"^lse: shape \[2, 8, 3\], expected \[2, 3, 8\]", out=numpy.empty_like(self.q),
                     lse=numpy.empty((2, 8, 3), numpy.float32))
        self.refused("^window.lengths: shape", window=self.window._replace(lengths=numpy.zeros(5, numpy.int32)))
        self.refused("^window.cache: shape .* without page_rows", window=self.window._replace(page_rows=None))
        self.refused("^window.cache: shape", window=self.window._replace(cache=self.window.cache[None, None]))
        with self.assertRaisesRegex(dsv4.InvalidArgument, r"^q: shape \[2, 3, 8, 100\]"):
            Plan(self.q[..., :100], self.window)

    def test_strides(self):
        self.refused("^q: last stride 4 bytes, expected 2", q=numpy.repeat(self.q, 2, -1)[..., ::2])
        self.refused("^out: last stride", out=numpy.empty((*self.q.shape[:3], 1024), numpy.uint16)[..., ::2])
        self.refused("^sink: strides", sink=numpy.zeros(16, numpy.float32)[::2])
        pages, rows = self.window.cache, self.window.page_rows
        cut = numpy.lib.stride_tricks.as_strided(pages, (len(pages), rows, 584), (pages.strides[0], 576, 1))
        self.refused("^window.cache: strides", window=Scope(cut, self.window.indices))
        self.refused("^window.cache: last stride 2 bytes", window=self.window._replace(
            cache=numpy.repeat(pages, 2, 1)[:, ::2]))

    def test_memory_that_cannot_be_written(self):
        out = numpy.empty(self.q.shape, numpy.uint16)
        out.flags.writeable = False
        self.refused("^out: read-only", out=out)

    def test_a_refused_decode_leaves_nothing_in_the_plan(self):
        window, extra = self.window, self.extra
        want, _ = self.plan.decode(self.q, window, extra)
        thin = numpy.lib.stride_tricks.as_strided(window.cache, window.cache.shape, (16, 1))
        for pattern, changes in (("^extra.cache: not given", {"extra": None}),
                                 ("page_stride_bytes: 16, expected", {"window": window._replace(cache=thin)})):
            self.refused(pattern, **changes)
            self.plan.build(window, extra)
            numpy.testing.assert_array_equal(self.plan.decode(self.q, window, extra)[0], want)

    def test_what_is_no_scope(self):
        for given, kind in ((self.window.cache, "ndarray"), (tuple(self.window), "tuple"), (None, "NoneType")):
            pattern = f"^window: a {kind}, expected a dsv4.attn.Scope"
            self.refused(pattern, window=given)
            for call in (lambda given=given: Plan(self.q, given), lambda given=given: self.plan.build(given)):
                with self.assertRaisesRegex(dsv4.InvalidArgument, pattern):
                    call()
        self.refused("^extra: a tuple, expected a dsv4.attn.Scope", extra=tuple(self.extra))

    def test_missing_scopes(self):
        self.refused("^extra.cache: not given, expected the cache that extra.indices names", extra=None)
        self.refused("^extra.indices: not given", extra=Scope(self.extra.cache, None, None, self.extra.page_rows))

    def test_what_the_library_refuses_keeps_its_words(self):
        self.refused("^softmax_scale: ", softmax_scale=-1.0)
        self.refused("^out_request_stride_bytes: 0", out=numpy.lib.stride_tricks.as_strided(
            numpy.empty(self.q.shape, numpy.uint16), self.q.shape, (0, 0, 0, 2)))
        with self.assertRaisesRegex(dsv4.InvalidArgument, "n_threads: 5000"):
            Plan(self.q, self.window, n_threads=5000)
        with self.assertRaisesRegex(dsv4.Error, "bf16|exact"):
            Plan(from_bf16(self.q), self.window, math="bf16")
        with self.assertRaisesRegex(dsv4.InvalidArgument, "stream"):
            self.plan.decode(self.q, self.window, self.extra, stream=12345)

    def test_options(self):
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^math: 'fp16', expected one of auto, exact"):
            Plan(self.q, self.window, math="fp16")
        for name, value in (("group_heads", 3), ("fixed_split", 5)):
            with self.assertRaisesRegex(dsv4.InvalidArgument, f"^{name}: {value}, expected 0"):
                Plan(self.q, self.window, **{name: value})
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^cpu_level: 'avx', expected one of auto, v2"):
            Plan(self.q, self.window, cpu_level="avx")
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^cuda_kernel: 'fast', expected one of auto, mma"):
            Plan(self.q, self.window, cuda_kernel="fast")
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^join_queries: True, expected one of auto, never, always"):
            Plan(self.q, self.window, join_queries=True)
        Plan(self.q, self.window, join_queries="always")  # of no account on the CPU
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^backend: 'cuda', but the tensors are on the cpu"):
            Plan(self.q, self.window, backend="cuda")
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^stream: a str"):
            self.plan.decode(self.q, self.window, self.extra, stream="0")
        for name, value in (("n_threads", "2"), ("group_heads", 8.0), ("n_threads", 1 << 32)):
            with self.assertRaisesRegex(dsv4.InvalidArgument, f"^{name}: .*expected an integer"):
                Plan(self.q, self.window, **{name: value})
        self.refused("^softmax_scale: None, expected a number", softmax_scale=None)
        self.refused("^window.cache: page_rows: 2.5, expected an integer", window=self.window._replace(page_rows=2.5))
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^page_rows: 0"):
            attn.page_stride_bytes(0)
        self.assertEqual(attn.page_stride_bytes(64), 37440)

    def test_devices(self):
        class Elsewhere(Dlpack):
            def __dlpack_device__(self):
                return (self.kind, 1)

            def __dlpack__(self, **_):
                capsule = self._array.__dlpack__()
                pointer = ctypes.pythonapi.PyCapsule_GetPointer
                pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
                device = (ctypes.c_int32 * 2).from_address(pointer(capsule, b"dltensor") + 8)
                device[0], device[1] = self.kind, 1
                return capsule

        def on_rocm(tensor):
            tensor.kind = 10
            return tensor

        sink = Elsewhere(numpy.zeros(8, numpy.float32))
        sink.kind = 2
        self.refused("^sink: on cuda:1, expected cpu as the queries", sink=sink)
        q = Elsewhere(self.q)
        q.kind = 11
        with self.assertRaisesRegex(dsv4.Unsupported, "^device: rocm_host:1, expected cpu, cuda or rocm"):
            Plan(q, self.window)
        q.kind = 10
        window = self.window._replace(**{name: on_rocm(Elsewhere(getattr(self.window, name)))
                                         for name in ("cache", "indices")})
        with self.assertRaisesRegex(dsv4.Unsupported, "^backend: hip, but "):
            Plan(q, window, memory=on_rocm(Elsewhere(numpy.zeros(64, numpy.uint8))))

    def test_classes_of_exceptions(self):
        self.assertTrue(issubclass(dsv4.InvalidArgument, (dsv4.Error, ValueError)))
        with self.assertRaises(ValueError) as caught:
            self.plan.decode(self.q, self.window, self.extra, softmax_scale=0.0)
        self.assertEqual(caught.exception.status, -1)


class Choice(unittest.TestCase):
    def test_what_runs_is_said(self):
        found = attn.choose(backend="ref")
        self.assertEqual((found["backend"], found["math"]), ("ref", "exact"))
        self.assertTrue(found["reason"])

    def test_no_device(self):
        try:
            found = attn.choose(backend="cuda")
        except dsv4.Unsupported as error:
            self.assertIn("cuda", str(error))
        else:
            self.assertEqual(found["backend"], "cuda")


if __name__ == "__main__":
    unittest.main()
