"""dsv4.keys on numpy against float64 arithmetic: finishing, compressing, reading back; bad input."""
import unittest

import numpy

import dsv4
from attn_cases import e4m3, from_bf16, to_bf16
from dsv4 import attn, keys

E4M3 = numpy.array([e4m3(code) for code in range(256)])


def make_cache(n_pages, page_rows):
    """Pages of NaN bytes: what is not written shows."""
    return numpy.full((n_pages, attn.page_stride_bytes(page_rows)), 255, numpy.uint8)


def row_of(pages, page_rows, slot):
    """A row's 512 values, by the description in docs/layouts.md."""
    page, row = pages[slot // page_rows], slot % page_rows
    data = page[row * 576:(row + 1) * 576]
    scales = page[page_rows * 576 + row * 8:][:7].astype(float)
    values = E4M3[data[:448]].reshape(7, 64) * 2.0**(scales - 127)[:, None]
    return numpy.concatenate([values.reshape(448), from_bf16(data[448:].copy().view(numpy.uint16))])


def rope_table(n_rows):
    angles = numpy.arange(n_rows)[:, None] * 10000.0**(-numpy.arange(32) / 32)
    return numpy.concatenate([numpy.cos(angles), numpy.sin(angles)], 1).astype(numpy.float32)


def rotate(values, table_rows):
    """Rotation of the last 64 dims; table_rows broadcasts against values' leading dims."""
    out = values.astype(numpy.float64).copy()
    pairs = out[..., 448:].reshape(*out.shape[:-1], 32, 2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * (table_rows[..., :32] + 1j * table_rows[..., 32:])
    out[..., 448:] = numpy.stack([turned.real, turned.imag], -1).reshape(*out.shape[:-1], 64)
    return out


def norm(values, weight=1.0, eps=1e-6):
    values = values.astype(numpy.float64)
    return values / numpy.sqrt((values**2).mean(-1, keepdims=True) + eps) * weight


class Finish(unittest.TestCase):
    def setUp(self):
        random = numpy.random.default_rng(7)
        self.q = random.normal(size=(5, 3, 512)).astype(numpy.float32)
        self.kv = random.normal(size=(5, 512)).astype(numpy.float32)
        self.kv_norm = to_bf16(random.normal(size=512))
        self.table, self.rows = rope_table(100), numpy.array([3, 50, 0, 99, 7], numpy.int32)
        self.slots = numpy.array([17, -1, 0, 69 * 2 - 1, 69], numpy.int32)
        self.cache = make_cache(2, 69)

    def run_finish(self, **changes):
        arguments = {"q": self.q, "kv": self.kv, "window": self.cache, "slots": self.slots, "rope_table": self.table,
                     "rope_rows": self.rows, "kv_norm": self.kv_norm, "page_rows": 69, **changes}
        return keys.finish(**arguments)

    def test_queries_and_keys(self):
        out = self.run_finish()
        self.assertEqual(out.dtype, numpy.float32)
        numpy.testing.assert_allclose(out, rotate(norm(self.q), self.table[self.rows][:, None]), atol=2e-6)
        want = rotate(norm(self.kv, from_bf16(self.kv_norm)), self.table[self.rows])
        for token, slot in enumerate(self.slots):
            if slot >= 0:
                found = row_of(self.cache, 69, slot)
                self.assertLess(numpy.linalg.norm(found - want[token]) / numpy.linalg.norm(want[token]), 2.0**-4)
                self.assertLess(abs(found[448:] - want[token, 448:]).max(), 2.0**-8 * abs(want[token]).max())
        written = [row for slot in (0, 17, 69) for row in [self.cache[slot // 69, slot % 69 * 576:][:576]]]
        self.assertTrue(all((row != 255).any() for row in written))
        self.assertTrue((self.cache[0, 576:17 * 576] == 255).all(), "rows that no slot names")

    def test_in_place_and_bf16(self):
        q = to_bf16(self.q)
        want = rotate(norm(from_bf16(q)), self.table[self.rows][:, None])
        self.assertIs(keys.finish(q, rope_table=self.table, rope_rows=self.rows, out=q), q)
        numpy.testing.assert_allclose(from_bf16(q), want, rtol=2.0**-7, atol=1e-4)

    def test_strides(self):
        want = self.run_finish()
        want_cache, self.cache = self.cache, make_cache(2, 69)
        wide_q = numpy.zeros((5, 4, 600), numpy.float32)
        wide_q[:, 1:, 8:520] = self.q
        wide_kv = numpy.zeros((10, 640), numpy.float32)
        wide_kv[::2, :512] = self.kv
        out = numpy.zeros((3, 5, 512), numpy.float32).transpose(1, 0, 2)
        self.run_finish(q=wide_q[:, 1:, 8:520], kv=wide_kv[::2, :512], out=out)
        numpy.testing.assert_array_equal(out, want)
        numpy.testing.assert_array_equal(self.cache, want_cache)

    def test_keys_alone(self):
        self.assertIsNone(self.run_finish(q=None))
        self.assertFalse((self.cache[0, :576] == 255).all())

    def test_refusals(self):
        with self.assertRaisesRegex(dsv4.InvalidArgument, r"^kv: shape \[4, 512\], expected \[5, 512\]"):
            self.run_finish(kv=self.kv[:4])
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^slots: dtype <i8, expected i32"):
            self.run_finish(slots=self.slots.astype(numpy.int64))
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^window: not given"):
            self.run_finish(window=None)
        with self.assertRaisesRegex(dsv4.InvalidArgument, r"^rope_table: shape \[100, 32\]"):
            self.run_finish(rope_table=self.table[:, :32])
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^kv_norm: dtype f32, expected bf16"):
            self.run_finish(kv_norm=from_bf16(self.kv_norm))
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^norm_eps: "):
            self.run_finish(norm_eps=-1.0)
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^norm_eps: 'small', expected a number"):
            self.run_finish(norm_eps="small")
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^out: given without q"):
            self.run_finish(q=None, out=self.q)
        of_keys = {"window": self.cache, "slots": self.slots, "kv_norm": self.kv_norm}
        for name, tensor in of_keys.items():
            with self.assertRaisesRegex(dsv4.InvalidArgument, f"^{name}: given without kv"):
                self.run_finish(kv=None, **{**dict.fromkeys(of_keys), name: tensor})


class Compress(unittest.TestCase):
    def check(self, ratio, n_tokens, steps):
        random = numpy.random.default_rng(ratio)
        width = 512 if ratio == 128 else 1024
        k, g = (random.normal(size=(n_tokens, width)).astype(numpy.float32) for _ in range(2))
        ape, weight = random.normal(size=(ratio, width)).astype(numpy.float32), to_bf16(random.normal(size=512))
        table, n_groups = rope_table(n_tokens), n_tokens // ratio
        state = numpy.full((n_tokens // 16 + 1, 16, 2, width), numpy.nan, numpy.float32)
        tables = numpy.arange(len(state), dtype=numpy.int32)[None]
        cache = make_cache(1, max(n_groups, 1))
        for begin, end in zip(steps, steps[1:]):
            positions = numpy.arange(begin, end, dtype=numpy.int32)
            keys.compress(k[begin:end], g[begin:end], ratio=ratio, requests=numpy.zeros_like(positions),
                          positions=positions, ape=ape, norm=weight, state=state, tables=tables, compressed=cache,
                          page_rows=max(n_groups, 1), slots=positions // ratio, rope_table=table,
                          rope_rows=positions // ratio * ratio)
        for group in range(n_groups):
            rows = numpy.arange(group * ratio, (group + 1) * ratio)
            values, weights = k[rows, -512:], (g[rows] + ape)[:, -512:]
            if ratio == 4 and group > 0:
                values = numpy.concatenate([k[rows - 4, :512], values])
                weights = numpy.concatenate([(g[rows - 4] + ape)[:, :512], weights])
            weights = numpy.exp(weights.astype(numpy.float64) - weights.max(0))
            key = (weights * values).sum(0) / weights.sum(0)
            want = rotate(norm(key, from_bf16(weight)), table[group * ratio])
            found = row_of(cache, max(n_groups, 1), group)
            self.assertLess(numpy.linalg.norm(found - want) / numpy.linalg.norm(want), 2.0**-4, f"group {group}")
            self.assertLess(abs(found[448:] - want[448:]).max(), 2.0**-8 * abs(want).max())

    def test_ratio_4(self):
        self.check(4, 24, [0, 5, 6, 7, 8, 24])

    def test_ratio_128(self):
        self.check(128, 256, [0, 100, 256])

    def test_refusals(self):
        z = numpy.zeros
        arguments = {"k": z((2, 1024), numpy.float32), "g": z((2, 1024), numpy.float32), "ratio": 4,
                     "requests": z(2, numpy.int32), "positions": z(2, numpy.int32), "ape": z((4, 1024), numpy.float32),
                     "state": z((1, 16, 2, 1024), numpy.float32), "tables": z((1, 1), numpy.int32),
                     "compressed": make_cache(1, 4), "page_rows": 4, "slots": z(2, numpy.int32),
                     "rope_table": rope_table(8)}
        keys.compress(**{**arguments, "positions": numpy.array([0, 1], numpy.int32)})
        for pattern, changes in (("^ratio: 3, expected 4 or 128", {"ratio": 3}),
                                 (r"^k: shape \[2, 1024\], expected \[any, 512\]", {"ratio": 128}),
                                 (r"^state: shape", {"state": z((1, 16, 1024), numpy.float32)}),
                                 ("^state: strides", {"state": z((1, 16, 2, 2048), numpy.float32)[..., ::2]}),
                                 ("^tables: not given", {"tables": None}),
                                 (r"^positions: shape \[3\], expected \[2\]", {"positions": z(3, numpy.int32)})):
            with self.assertRaisesRegex(dsv4.InvalidArgument, pattern):
                keys.compress(**{**arguments, **changes})


class Read(unittest.TestCase):
    def setUp(self):
        self.cache = make_cache(3, 5)
        random = numpy.random.default_rng(3)
        self.slots = numpy.arange(15, dtype=numpy.int32)
        keys.finish(kv=random.normal(size=(15, 512)).astype(numpy.float32), window=self.cache, slots=self.slots,
                    rope_table=rope_table(1), rope_rows=numpy.zeros(15, numpy.int32), page_rows=5)

    def test_slots_and_pages(self):
        want = numpy.stack([row_of(self.cache, 5, slot) for slot in range(15)])
        slots = numpy.array([7, -3, 14, 15, 0], numpy.int32)
        found = keys.read(self.cache, slots=slots, page_rows=5, dtype="f32")
        numpy.testing.assert_array_equal(found, want[[7, 0, 14, 0, 0]] * numpy.array([1, 0, 1, 0, 1])[:, None])
        pages = keys.read(self.cache, pages=numpy.array([2, 0], numpy.int32), page_rows=5, dtype="f32")
        numpy.testing.assert_array_equal(pages, want[[10, 11, 12, 13, 14, 0, 1, 2, 3, 4]])
        numpy.testing.assert_array_equal(from_bf16(keys.read(self.cache, slots=self.slots, page_rows=5)),
                                         from_bf16(to_bf16(want)))

    def test_refusals(self):
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^slots: not given, nor pages"):
            keys.read(self.cache, page_rows=5)
        for name in ("slots", "pages"):
            with self.assertRaisesRegex(dsv4.InvalidArgument, rf"^{name}: shape \[\], expected \[any\]"):
                keys.read(self.cache, page_rows=5, **{name: numpy.array(3, numpy.int32)})
        with self.assertRaisesRegex(dsv4.InvalidArgument, "^dtype: 'f16'"):
            keys.read(self.cache, slots=self.slots, page_rows=5, dtype="f16")
        with self.assertRaisesRegex(dsv4.InvalidArgument, r"^out: shape \[15, 500\]"):
            keys.read(self.cache, slots=self.slots, page_rows=5, out=numpy.empty((15, 500), numpy.float32))


if __name__ == "__main__":
    unittest.main()
