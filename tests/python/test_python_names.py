"""Every public name of the package's modules says what it is and takes, and options are those of the C library."""
import importlib
import inspect
import typing
import unittest

from dsv4 import attn, native

MODULES = ["attn", "engine", "errors", "keys", "vllm_plugin", "vllm_seam"]
try:
    import torch  # noqa: F401
    MODULES += ["flash_mla", "torch_ops"]
except ImportError:
    pass


def public(owner, module):
    """(name, object) of the public classes and functions of a module, and of their methods."""
    for name, found in vars(owner).items():
        found = getattr(found, "fget", found)  # a property's function
        if (inspect.isclass(found) or inspect.isfunction(found)) and found.__module__ == module:
            if not name.startswith("_") or name == "__init__" and found.__qualname__.endswith(".__init__"):
                yield f"{module}.{found.__qualname__}", found
                if inspect.isclass(found):
                    yield from public(found, module)


class Names(unittest.TestCase):
    def test_docstrings_and_annotations(self):
        n_found, missing = 0, []
        for name in MODULES:
            module = importlib.import_module("dsv4." + name)
            self.assertTrue(module.__doc__, name)
            for path, found in public(module, module.__name__):
                n_found += 1
                if not found.__doc__ and not path.endswith(".__init__"):
                    missing.append(f"{path}: no docstring")
                if inspect.isfunction(found):
                    names = {*inspect.signature(found).parameters} - {"self"}
                    missing += [f"{path}: {n} has no type" for n in names - {*found.__annotations__}]
        self.assertEqual(missing, [])
        self.assertGreater(n_found, 50)

    def test_types_of_options_are_their_names(self):
        for kind, table in ((native.Backend, native.BACKENDS), (native.Math, native.MATHS),
                            (native.CudaKernel, native.CUDA_KERNELS), (native.CpuLevel, native.CPU_LEVELS),
                            (native.Join, native.JOINS), (native.Dtype, native.DTYPES),
                            (native.Numerics, native.NUMERICS)):
            self.assertEqual(typing.get_args(kind), tuple(table))

    def test_options_of_a_plan_are_spelled_out(self):
        options = {name: p.annotation for name, p in inspect.signature(attn.DecodeCall).parameters.items()
                   if p.kind is p.KEYWORD_ONLY}
        self.assertGreater(len(options), 7)
        for function in (attn.Plan, attn.decode):
            parameters = inspect.signature(function).parameters.values()
            self.assertNotIn(inspect.Parameter.VAR_KEYWORD, {p.kind for p in parameters})
            self.assertEqual({p.name: p.annotation for p in parameters if p.name in options}, options)
            with self.assertRaisesRegex(TypeError, "unexpected keyword argument 'maths'"):
                function(None, None, maths="exact")


if __name__ == "__main__":
    unittest.main()
