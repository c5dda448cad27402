/*
 * commands.h - the program's commands and its exit codes.
 *
 * Place: program. Each command takes a parsed command line, prints to standard output, and returns
 * an exit code; failures are told on standard error by dsv4_command_fail.
 */
#ifndef DSV4_TOOLS_COMMANDS_H
#define DSV4_TOOLS_COMMANDS_H

#include "options.h"

enum {
    DSV4_EXIT_OK = 0,
    DSV4_EXIT_FAILED = 1, /* a check failed, or memory ran out */
    DSV4_EXIT_USAGE = 2,  /* wrong usage, or more than this machine can do */
    DSV4_EXIT_FILE = 3    /* a file cannot be read or written, or is wrong */
};

int dsv4_cmd_attn_check(const dsv4_options *options);
int dsv4_cmd_attn_run(const dsv4_options *options);
int dsv4_cmd_attn_bench(const dsv4_options *options);
int dsv4_cmd_run(const dsv4_options *options);
int dsv4_cmd_chat(const dsv4_options *options);
int dsv4_cmd_tokenize(const dsv4_options *options);
int dsv4_cmd_inspect(const dsv4_options *options);
int dsv4_cmd_eval(const dsv4_options *options);
int dsv4_cmd_bench(const dsv4_options *options);
int dsv4_cmd_info(const dsv4_options *options);

/* Prints "dsv4 attn check: TEXT" on standard error and returns the exit code of error->status. */
int dsv4_command_fail(const dsv4_options *options, const dsv4_error *error);

#endif
