/*
 * options.h - the program's command line: one table, from which come parsing, help and man page.
 *
 * Place: program. options_table.c holds the two tables (commands and options), options.c reads a
 * command line against them, options_help.c prints them. Nothing here ends the program, and only
 * options_help.c writes, to the stream that it is given.
 */
#ifndef DSV4_TOOLS_OPTIONS_H
#define DSV4_TOOLS_OPTIONS_H

#include "dsv4/base.h"

#include <stdbool.h>
#include <stdio.h>

/* Rows of dsv4_commands. TOP is the program without a command. */
enum {
    DSV4_COMMAND_TOP = 0,
    DSV4_COMMAND_ATTN,
    DSV4_COMMAND_ATTN_CHECK,
    DSV4_COMMAND_ATTN_RUN,
    DSV4_COMMAND_ATTN_BENCH,
    DSV4_COMMAND_RUN,
    DSV4_COMMAND_CHAT,
    DSV4_COMMAND_TOKENIZE,
    DSV4_COMMAND_INSPECT,
    DSV4_COMMAND_EVAL,
    DSV4_COMMAND_BENCH,
    DSV4_COMMAND_INFO,
    DSV4_COMMAND_HELP,
    DSV4_N_COMMANDS
};

/* Rows of dsv4_options_table. Two rows may have one name when no command takes both. */
enum {
    DSV4_OPTION_MODEL = 0,
    DSV4_OPTION_PROMPT,
    DSV4_OPTION_TOKENS,
    DSV4_OPTION_CONTEXT,
    DSV4_OPTION_DRAFT,
    DSV4_OPTION_TEMP,
    DSV4_OPTION_TOP_K,
    DSV4_OPTION_TOP_P,
    DSV4_OPTION_MIN_P,
    DSV4_OPTION_SEED,
    DSV4_OPTION_THINKING,
    DSV4_OPTION_IDS,
    DSV4_OPTION_GOLDEN,
    DSV4_OPTION_TASK,
    DSV4_OPTION_TEXT,
    DSV4_OPTION_SAMPLES,
    DSV4_OPTION_CHAT,
    DSV4_OPTION_MIN_RIGHT,
    DSV4_OPTION_MAX_APART,
    DSV4_OPTION_MTP,
    DSV4_OPTION_CHUNK,
    DSV4_OPTION_MAX_ABS,
    DSV4_OPTION_MIN_COSINE,
    DSV4_OPTION_MIN_AGREE,
    DSV4_OPTION_VERBOSE,
    DSV4_OPTION_NUMERICS,
    DSV4_OPTION_BACKEND,
    DSV4_OPTION_ISA,
    DSV4_OPTION_MATH,
    DSV4_OPTION_THREADS,
    DSV4_OPTION_OUTPUT,
    DSV4_OPTION_OUT_DTYPE,
    DSV4_OPTION_SHAPE,
    DSV4_OPTION_PP,
    DSV4_OPTION_TG,
    DSV4_OPTION_DEPTH,
    DSV4_OPTION_REPS,
    DSV4_OPTION_MODEL_SHAPE,
    DSV4_OPTION_LAYER,
    DSV4_OPTION_PART,
    DSV4_OPTION_BATCH,
    DSV4_OPTION_LENGTHS,
    DSV4_OPTION_MEMORY_LIMIT,
    DSV4_OPTION_QUICK,
    DSV4_OPTION_JSON,
    DSV4_OPTION_MAN,
    DSV4_OPTION_VERSION,
    DSV4_OPTION_HELP,
    DSV4_N_OPTIONS
};

enum {
    DSV4_OPTION_KIND_FLAG = 0, /* no value */
    DSV4_OPTION_KIND_CHOICE,   /* one of a few words */
    DSV4_OPTION_KIND_INTEGER,  /* decimal, min .. max */
    DSV4_OPTION_KIND_REAL,     /* decimal, min .. max */
    DSV4_OPTION_KIND_TEXT      /* anything but the empty string */
};

/* Values of --task. */
enum { DSV4_TASK_LOGITS = 0, DSV4_TASK_RECALL, DSV4_TASK_SUMS, DSV4_TASK_TEXT, DSV4_TASK_DRAFTS };

/* Values of --part. */
enum { DSV4_BENCH_PART_LINEARS = 1, DSV4_BENCH_PART_LAYERS = 2 };

typedef struct dsv4_option_choice {
    const char *name;
    int32_t value;
} dsv4_option_choice;

typedef struct dsv4_option_spec {
    const char *name;                  /* without the dashes */
    char letter;                       /* short form, or 0 */
    int32_t kind;                      /* DSV4_OPTION_KIND_* */
    uint32_t commands;                 /* bit 1 << DSV4_COMMAND_* for each command that takes it */
    uint32_t required;                 /* likewise, for each one that cannot do without it */
    const char *value_name;            /* for help, "N" for instance; NULL for flags and choices */
    const dsv4_option_choice *choices; /* ends with a NULL name; the first one is the default */
    int64_t min, max;                  /* of integers and reals */
    const char *help;
} dsv4_option_spec;

typedef struct dsv4_command_spec {
    const char *name; /* "" for TOP, else the words with one space between */
    bool is_group;    /* holds commands whose names begin with its own; takes only options */
    int32_t min_arguments, max_arguments;
    const char *arguments; /* for help, "FILE..." for instance; "" for none */
    const char *summary;   /* one line */
    const char *description;
} dsv4_command_spec;

/* A section of the man page; is_literal keeps its line breaks. */
typedef struct dsv4_man_section {
    const char *title;
    bool is_literal;
    const char *text;
} dsv4_man_section;

extern const dsv4_command_spec dsv4_commands[DSV4_N_COMMANDS];
extern const dsv4_option_spec dsv4_options_table[DSV4_N_OPTIONS];
extern const dsv4_man_section dsv4_man_sections[];
extern const int32_t dsv4_n_man_sections;

/* A parsed command line. Strings are those of argv. */
typedef struct dsv4_options {
    int32_t command; /* DSV4_COMMAND_* */
    bool given[DSV4_N_OPTIONS];
    int64_t values[DSV4_N_OPTIONS];    /* of choices and integers; choices start at their default,
                                           integers at 0 */
    double reals[DSV4_N_OPTIONS];      /* of reals; 0 without the option */
    const char *texts[DSV4_N_OPTIONS]; /* of each given option that has a value */
    char **arguments;                  /* [n_arguments] what is neither command nor option */
    int32_t n_arguments;
} dsv4_options;

/*
 * Reads argv[1 .. argc - 1]; the entries of argv are reordered and stay the caller's. An option may
 * be given once; "--" ends options. With --help, or --version of TOP, what else the command needs
 * may be missing. On failure options->command is the command as far as it was understood.
 * Errors: INVALID_ARGUMENT; the text names the option, the value and what was expected.
 */
dsv4_status dsv4_options_parse(int argc, char **argv, dsv4_options *options, dsv4_error *error);

/* The command that 0 .. 2 words name, or -1. No words name TOP. */
int32_t dsv4_options_find_command(char *const *words, int32_t n_words);

/* "one of auto, ref or cpu", "a whole number from 1 to 1024", ...: what a value must be. */
void dsv4_options_describe_value(const dsv4_option_spec *spec, char *text, size_t text_bytes);

/* Help of one command: usage, description, its commands or its options. */
void dsv4_options_print_help(FILE *stream, int32_t command);

/* The man page of the whole program, roff with man macros. */
void dsv4_options_print_man(FILE *stream);

#endif
