"""The package's ctypes structs against the C headers: a C program prints sizes and offsets of every field."""
import ctypes
import os
import shutil
import subprocess
import tempfile
import unittest

import attn_cases
from dsv4 import native


class Abi(unittest.TestCase):
    def expected_lines(self):
        for struct in native.STRUCTS:
            yield f"{struct.c_name} {ctypes.sizeof(struct)}"
            for name, _ in struct._fields_:
                field = getattr(struct, name)
                yield f"{struct.c_name}.{name} {field.offset} {field.size}"

    def write_program(self, path):
        lines = ['#include <dsv4/attn.h>', '#include <dsv4/dsv4.h>', '#include <dsv4/keys.h>', '#include <stdio.h>',
                 'int main(void)', '{']
        for struct in native.STRUCTS:
            c_name = struct.c_name
            lines.append(f'    printf("{c_name} %zu\\n", sizeof({c_name}));')
            for name, _ in struct._fields_:
                lines.append(f'    printf("{c_name}.{name} %zu %zu\\n", offsetof({c_name}, {name}), '
                             f'sizeof((({c_name} *)0)->{name}));')
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines + ["    return 0;", "}", ""]))

    def test_structs_are_those_of_the_headers(self):
        compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
        self.assertIsNotNone(compiler, "a C compiler")
        with tempfile.TemporaryDirectory() as folder:
            source, program = os.path.join(folder, "abi.c"), os.path.join(folder, "abi")
            self.write_program(source)
            include = os.path.join(attn_cases.ROOT, "include")
            subprocess.run([compiler, "-std=c11", "-I", include, source, "-o", program], check=True)
            printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
        self.assertEqual(list(self.expected_lines()), printed)
        self.assertGreater(len(printed), 150)

    def test_names_of_options_have_the_numbers_of_the_headers(self):
        expected = {"DSV4_BACKEND_": native.BACKENDS, "DSV4_ATTN_MATH_": native.MATHS, "DSV4_DTYPE_": native.DTYPES,
                    "DSV4_CUDA_KERNEL_": native.CUDA_KERNELS, "DSV4_CPU_LEVEL_": native.CPU_LEVELS, "DSV4_JOIN_": native.JOINS,
                    "DSV4_MODEL_": native.NUMERICS}
        with tempfile.TemporaryDirectory() as folder:
            source, program = os.path.join(folder, "names.c"), os.path.join(folder, "names")
            names = [(prefix + name.upper(), number) for prefix, table in expected.items()
                     for name, number in table.items()]
            with open(source, "w", encoding="utf-8") as file:
                file.write("#include <dsv4/attn.h>\n#include <dsv4/dsv4.h>\n")
                for name, number in names:
                    file.write(f'_Static_assert({name} == {number}, "{name}");\n')
            include = os.path.join(attn_cases.ROOT, "include")
            subprocess.run(["cc", "-std=c11", "-c", "-I", include, source, "-o", program], check=True)

    def test_importing_needs_neither_torch_nor_numpy(self):
        code = ("import sys\nsys.modules['numpy'] = sys.modules['torch'] = None\nimport dsv4, dsv4.vllm_plugin\n"
                "print(dsv4.__version__)")
        result = subprocess.run([os.sys.executable, "-c", code], capture_output=True, text=True, check=False)
        self.assertEqual((result.returncode, result.stdout.strip()), (0, native.VERSION), result.stderr)

    def test_a_missing_library_says_so(self):
        result = subprocess.run([os.sys.executable, "-c", "import dsv4"], capture_output=True, text=True, check=False,
                                env={**os.environ, "DSV4_LIBRARY": "/nowhere/libdsv4.so"})
        self.assertIn("ImportError: dsv4: cannot load its C library: /nowhere/libdsv4.so", result.stderr)

    def test_a_library_of_another_version_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            library = os.path.join(folder, "libdsv4.so")
            subprocess.run(["cc", "-shared", "-x", "c", os.devnull, "-o", library], check=True)
            result = subprocess.run([os.sys.executable, "-c", "import dsv4"], capture_output=True, text=True,
                                    check=False, env={**os.environ, "DSV4_LIBRARY": library})
        self.assertIn(f"ImportError: dsv4: {library} has no dsv4_version: it is of another version", result.stderr)


if __name__ == "__main__":
    unittest.main()
