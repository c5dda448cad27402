#!/usr/bin/env python3
"""Runs the Python package's tests for a GPU, gpu_*.py beside this file, on a machine with torch, numpy and an NVIDIA
GPU.

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


def main():
    reason = missing()
    if reason is not None:
        print(f"skipped: tests of the Python package on a GPU: {reason}")
        return 0
    import torch

    import dsv4
    print(f"dsv4 {dsv4.__version__}, torch {torch.__version__}, {torch.cuda.get_device_name()}, "
          f"{dsv4.attn.choose(backend='cuda')}")
    folder, loader = os.path.dirname(os.path.abspath(__file__)), unittest.TestLoader()
    suite = loader.loadTestsFromNames(sys.argv[1:]) if sys.argv[1:] else loader.discover(folder, "gpu_*.py")
    return 0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
