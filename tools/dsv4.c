/*
 * dsv4.c - the program: reads the command line and hands over to a command.
 *
 * Place: program. The only file with main.
 */
#include "commands.h"

#include <stdio.h>

int dsv4_command_fail(const dsv4_options *options, const dsv4_error *error)
{
    const char *name = dsv4_commands[options->command].name;
    fprintf(stderr, "dsv4%s%s: %s\n", name[0] != '\0' ? " " : "", name, error->text);
    switch (error->status) {
    case DSV4_ERROR_IO:
    case DSV4_ERROR_BAD_FILE: return DSV4_EXIT_FILE;
    case DSV4_ERROR_OUT_OF_MEMORY: return DSV4_EXIT_FAILED;
    default: return DSV4_EXIT_USAGE;
    }
}

static int run_help(const dsv4_options *options)
{
    if (options->given[DSV4_OPTION_MAN]) {
        dsv4_options_print_man(stdout);
        return DSV4_EXIT_OK;
    }
    int32_t command = dsv4_options_find_command(options->arguments, options->n_arguments);
    if (command < 0) {
        bool has_two = options->n_arguments > 1;
        fprintf(stderr, "dsv4 help: unknown command '%s%s%s'; dsv4 --help lists the commands\n",
                options->arguments[0], has_two ? " " : "", has_two ? options->arguments[1] : "");
        return DSV4_EXIT_USAGE;
    }
    dsv4_options_print_help(stdout, command);
    return DSV4_EXIT_OK;
}

static int run_command(const dsv4_options *options)
{
    if (options->given[DSV4_OPTION_HELP]) {
        dsv4_options_print_help(stdout, options->command);
        return DSV4_EXIT_OK;
    }
    switch (options->command) {
    case DSV4_COMMAND_ATTN_CHECK: return dsv4_cmd_attn_check(options);
    case DSV4_COMMAND_ATTN_RUN: return dsv4_cmd_attn_run(options);
    case DSV4_COMMAND_ATTN_BENCH: return dsv4_cmd_attn_bench(options);
    case DSV4_COMMAND_RUN: return dsv4_cmd_run(options);
    case DSV4_COMMAND_CHAT: return dsv4_cmd_chat(options);
    case DSV4_COMMAND_TOKENIZE: return dsv4_cmd_tokenize(options);
    case DSV4_COMMAND_INSPECT: return dsv4_cmd_inspect(options);
    case DSV4_COMMAND_EVAL: return dsv4_cmd_eval(options);
    case DSV4_COMMAND_BENCH: return dsv4_cmd_bench(options);
    case DSV4_COMMAND_INFO: return dsv4_cmd_info(options);
    case DSV4_COMMAND_HELP: return run_help(options);
    default: printf("dsv4 %s\n", dsv4_version()); return DSV4_EXIT_OK;
    }
}

int main(int argc, char **argv)
{
    dsv4_options options;
    dsv4_error error;
    if (dsv4_options_parse(argc, argv, &options, &error) != DSV4_OK) {
        int code = dsv4_command_fail(&options, &error);
        const char *name = dsv4_commands[options.command].name;
        fprintf(stderr, "Try 'dsv4%s%s --help'.\n", name[0] != '\0' ? " " : "", name);
        return code;
    }
    int code = run_command(&options);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "dsv4: cannot write to standard output\n");
        if (code == DSV4_EXIT_OK) code = DSV4_EXIT_FILE;
    }
    return code;
}
