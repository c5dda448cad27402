/*
 * fiber_switch.c - from one fiber to another, on x86-64.
 *
 * Place: tests. Saves what the calling convention preserves, and nothing else: setcontext would call the kernel twice.
 */
#include "fiber_switch.h"

__asm__(".text\n.globl fiber_switch\n.hidden fiber_switch\n.type fiber_switch, @function\n"
        "fiber_switch:\n"
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\n"
        "ret\n.size fiber_switch, .-fiber_switch\n");
