/*
 * code_objects.c - puts the compiled kernels for AMD GPUs into the library.
 *
 * Place: gpu. CMakeLists.txt names the files in DSV4_CODE_GFX942 and DSV4_CODE_GFX950 and makes this object depend on
 * them. They are aligned to 64 bytes.
 */
#include "code_objects.h"

#if defined(DSV4_CODE_GFX942) && defined(DSV4_CODE_GFX950)

/* Bytes of a file as `name`, and their number. */
#define EMBED(name, path)                                                                          \
    __asm__(".pushsection .rodata\n"                                                               \
            ".balign 64\n"                                                                         \
            ".globl " name "\n.hidden " name "\n.type " name ", @object\n" name ":\n"              \
            ".incbin \"" path "\"\n"                                                               \
            ".L" name "_end:\n.size " name ", .L" name "_end - " name "\n"                         \
            ".balign 8\n"                                                                          \
            ".globl " name "_bytes\n.hidden " name "_bytes\n.type " name "_bytes, @object\n" name  \
            "_bytes:\n.quad .L" name "_end - " name "\n.size " name "_bytes, 8\n"                  \
            ".popsection\n")

EMBED("dsv4_code_gfx942", DSV4_CODE_GFX942);
EMBED("dsv4_code_gfx950", DSV4_CODE_GFX950);
const char dsv4_code_compiler[] = DSV4_CODE_COMPILER;

#else

const unsigned char dsv4_code_gfx942[1] = {0};
const size_t dsv4_code_gfx942_bytes = 0;
const unsigned char dsv4_code_gfx950[1] = {0};
const size_t dsv4_code_gfx950_bytes = 0;
const char dsv4_code_compiler[] = "";

#endif
