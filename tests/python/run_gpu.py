#!/usr/bin/env python3
"""Runs the Python package's tests on a machine with torch, numpy and an NVIDIA GPU: those for a GPU, gpu_*.py beside
this file, and those for CPUs, test_*.py, of which some need torch and run nowhere else by themselves.

usage: DSV4_LIBRARY=build/libdsv4.so PYTHONPATH=bindings/python tests/python/run_gpu.py [NAME ...]
    NAME  only these files (gpu_attn) or tests (gpu_attn.Graphs.test_replay)
DSV4_TEST_CASES says how many cases of FlashMLA's grid are taken: a number (300), or all.
Exit status: 0 all passed or there is nothing to run on, which is said; 1 not.
"""
import os
import sys
import unittest


def missing():
    """What keeps the tests from running, or None."""
    try:
        import numpy  # noqa: F401
        import torch
    except ImportError as error:
        return str(error)
    return None if torch.cuda.is_available() else "torch sees no GPU"


def suite(names):
    """The named tests, or all."""
    loader = unittest.TestLoader()
    if names:
        return loader.loadTestsFromNames(names)
    folder = os.path.dirname(os.path.abspath(__file__))
    return unittest.TestSuite(loader.discover(folder, pattern) for pattern in ("test_*.py", "gpu_*.py"))


def main():
    reason = missing()
    if reason is not None:
        print(f"skipped: tests of the Python package on a GPU: {reason}")
        return 0
    import torch

    import dsv4
    print(f"dsv4 {dsv4.__version__}, torch {torch.__version__}, {torch.cuda.get_device_name()}, "
          f"{dsv4.attn.choose(backend='cuda')}")
    return 0 if unittest.TextTestRunner(verbosity=2).run(suite(sys.argv[1:])).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
