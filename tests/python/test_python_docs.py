"""The examples of docs/python.md run as they stand there."""
import contextlib
import io
import os
import re
import unittest

import attn_cases

try:
    import torch
except ImportError:
    torch = None


def examples():
    with open(os.path.join(attn_cases.ROOT, "docs", "python.md"), encoding="utf-8") as file:
        return re.findall(r"^```python\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)


class Examples(unittest.TestCase):
    def setUp(self):
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(attn_cases.ROOT)

    def run_example(self, word):
        code, = [example for example in examples() if word in example]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "docs/python.md", "exec"), {})
        return printed.getvalue()

    def test_there_are_three(self):
        self.assertEqual(len(examples()), 3)

    def test_attention(self):
        self.assertIn("(2, 1, 8, 512) (2, 1, 8) {'backend': 'cpu'", self.run_example("dsv4.attn"))

    @unittest.skipIf(torch is None, "no torch")
    def test_flash_mla(self):
        self.assertIn("torch.Size([2, 1, 8, 512]) torch.Size([2, 8, 1])", self.run_example("flash_mla"))

    def test_engine(self):
        printed = self.run_example("dsv4.Model")
        self.assertEqual(printed.splitlines()[0].strip(), "4")
        self.assertRegex(printed, r"\(2, \d+\) \d+\n$")


if __name__ == "__main__":
    unittest.main()
