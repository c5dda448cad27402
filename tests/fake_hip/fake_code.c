/*
 * fake_code.c - code objects of a test that launches nothing: ELF headers for gfx950 and gfx942, in place of the
 * library's own, which a build without AMD's compiler does not have.
 *
 * Place: tests. A program that has this file does not take gpu/code_objects.c from the static library.
 */
#include "gpu/code_objects.h"

#include <elf.h>

#define AMD_HEADER(machine)                                                                        \
    {                                                                                              \
        [EI_MAG0] = ELFMAG0, [EI_MAG1] = ELFMAG1, [EI_MAG2] = ELFMAG2, [EI_MAG3] = ELFMAG3,        \
        [EI_CLASS] = ELFCLASS64, [EI_DATA] = ELFDATA2LSB, [EI_VERSION] = EV_CURRENT,               \
        [EI_OSABI] = 64, [EI_ABIVERSION] = 3, [16] = ET_DYN, [18] = 224, [48] = (machine),         \
        [sizeof(Elf64_Ehdr) - 1] = 0                                                               \
    }

_Alignas(64) const unsigned char dsv4_code_gfx942[] = AMD_HEADER(0x4c);
const size_t dsv4_code_gfx942_bytes = sizeof dsv4_code_gfx942;
_Alignas(64) const unsigned char dsv4_code_gfx950[] = AMD_HEADER(0x4f);
const size_t dsv4_code_gfx950_bytes = sizeof dsv4_code_gfx950;
