/*
 * options.c - reads a command line against the tables of options_table.c.
 *
 * Place: program. Invariants: argv entries are only moved towards the front; every failure leaves a
 * text that names the option or word, its value and what was expected.
 */
#include "options.h"

#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES 256

/* Appends to a fixed text; what does not fit is cut. */
static void append(char *text, size_t text_bytes, const char *part)
{
    size_t len_bytes = strlen(text);
    (void)snprintf(text + len_bytes, text_bytes - len_bytes, "%s", part);
}

/* Appends item i of n as in "a, b or c". */
static void append_item(char *text, size_t text_bytes, const char *item, int32_t i, int32_t n)
{
    if (i > 0) append(text, text_bytes, i == n - 1 ? " or " : ", ");
    append(text, text_bytes, item);
}

void dsv4_options_describe_value(const dsv4_option_spec *spec, char *text, size_t text_bytes)
{
    switch (spec->kind) {
    case DSV4_OPTION_KIND_CHOICE: {
        int32_t n_choices = 0;
        while (spec->choices[n_choices].name != NULL) n_choices++;
        (void)snprintf(text, text_bytes, "one of ");
        for (int32_t i = 0; i < n_choices; i++) {
            append_item(text, text_bytes, spec->choices[i].name, i, n_choices);
        }
        break;
    }
    case DSV4_OPTION_KIND_INTEGER:
        (void)snprintf(text, text_bytes, "a whole number from %" PRId64 " to %" PRId64, spec->min,
                       spec->max);
        break;
    case DSV4_OPTION_KIND_REAL:
        (void)snprintf(text, text_bytes, "a number from %" PRId64 " to %" PRId64, spec->min,
                       spec->max);
        break;
    case DSV4_OPTION_KIND_TEXT: (void)snprintf(text, text_bytes, "a %s", spec->value_name); break;
    default: (void)snprintf(text, text_bytes, "no value"); break;
    }
}

int32_t dsv4_options_find_command(char *const *words, int32_t n_words)
{
    if (n_words < 0 || n_words > 2) return -1;
    for (int32_t i = 0; i < DSV4_N_COMMANDS; i++) {
        const char *rest = dsv4_commands[i].name;
        bool matches = true;
        for (int32_t w = 0; w < n_words && matches; w++) {
            size_t len_bytes = strcspn(rest, " ");
            matches = len_bytes > 0 && strlen(words[w]) == len_bytes &&
                      strncmp(rest, words[w], len_bytes) == 0;
            rest += len_bytes;
            if (*rest == ' ') rest++;
        }
        if (matches && *rest == '\0') return i;
    }
    return -1;
}

/* "attn check, attn run or attn bench": the commands inside a group that are no groups. */
static void list_commands(int32_t group, char *text, size_t text_bytes)
{
    const char *prefix = dsv4_commands[group].name;
    int32_t members[DSV4_N_COMMANDS], n_members = 0;
    for (int32_t i = 0; i < DSV4_N_COMMANDS; i++) {
        bool is_inside = strncmp(dsv4_commands[i].name, prefix, strlen(prefix)) == 0;
        if (is_inside && !dsv4_commands[i].is_group) members[n_members++] = i;
    }
    text[0] = '\0';
    for (int32_t i = 0; i < n_members; i++) {
        append_item(text, text_bytes, dsv4_commands[members[i]].name, i, n_members);
    }
}

static void list_options(int32_t command, char *text, size_t text_bytes)
{
    int32_t members[DSV4_N_OPTIONS], n_members = 0;
    for (int32_t i = 0; i < DSV4_N_OPTIONS; i++) {
        if (dsv4_options_table[i].commands & (1u << command)) members[n_members++] = i;
    }
    text[0] = '\0';
    for (int32_t i = 0; i < n_members; i++) {
        char item[TEXT_BYTES];
        (void)snprintf(item, sizeof item, "--%s", dsv4_options_table[members[i]].name);
        append_item(text, text_bytes, item, i, n_members);
    }
}

static dsv4_status fail_unknown_option(int32_t command, const char *argument, dsv4_error *error)
{
    char list[TEXT_BYTES];
    list_options(command, list, sizeof list);
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT, "unknown option '%.80s'; expected %s",
                          argument, list);
}

/* Finds "--name", "--name=value", "-x" or "-xvalue"; *value is NULL when none is attached. */
static int32_t find_option(int32_t command, const char *argument, const char **value)
{
    *value = NULL;
    bool is_long = argument[1] == '-';
    const char *name = argument + 2;
    size_t name_bytes = strcspn(name, "=");
    for (int32_t i = 0; i < DSV4_N_OPTIONS; i++) {
        const dsv4_option_spec *spec = &dsv4_options_table[i];
        if (!(spec->commands & (1u << command))) continue;
        if (is_long) {
            if (strlen(spec->name) != name_bytes || strncmp(spec->name, name, name_bytes) != 0) {
                continue;
            }
            if (name[name_bytes] == '=') *value = name + name_bytes + 1;
            return i;
        }
        if (spec->letter == 0 || argument[1] != spec->letter) continue;
        if (argument[2] != '\0') *value = argument + 2;
        return i;
    }
    return -1;
}

static dsv4_status fail_value(const dsv4_option_spec *spec, const char *value, dsv4_error *error)
{
    char expected[TEXT_BYTES];
    dsv4_options_describe_value(spec, expected, sizeof expected);
    return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                          "option --%s: '%.80s' is wrong; expected %s", spec->name, value,
                          expected);
}

/* Digits, a point, an exponent: neither names such as "inf" nor hexadecimal. */
static dsv4_status read_real(const dsv4_option_spec *spec, const char *value, double *real,
                             dsv4_error *error)
{
    char *end;
    *real = strtod(value, &end);
    bool is_decimal = strspn(value, "0123456789.eE+-") == strlen(value);
    if (!is_decimal || end == value || *end != '\0' || !(*real >= (double)spec->min) ||
        !(*real <= (double)spec->max)) {
        return fail_value(spec, value, error);
    }
    return DSV4_OK;
}

static dsv4_status read_value(const dsv4_option_spec *spec, const char *value, int64_t *number,
                              double *real, dsv4_error *error)
{
    if (value[0] == '\0') return fail_value(spec, value, error);
    if (spec->kind == DSV4_OPTION_KIND_CHOICE) {
        for (const dsv4_option_choice *choice = spec->choices; choice->name != NULL; choice++) {
            if (strcmp(choice->name, value) != 0) continue;
            *number = choice->value;
            return DSV4_OK;
        }
        return fail_value(spec, value, error);
    }
    if (spec->kind == DSV4_OPTION_KIND_INTEGER) {
        if (strspn(value, "0123456789") != strlen(value)) return fail_value(spec, value, error);
        errno = 0;
        long long parsed = strtoll(value, NULL, 10);
        if (errno != 0 || parsed < spec->min || parsed > spec->max) {
            return fail_value(spec, value, error);
        }
        *number = parsed;
    }
    if (spec->kind == DSV4_OPTION_KIND_REAL) return read_real(spec, value, real, error);
    return DSV4_OK;
}

/* Reads the option at argv[*at] and moves *at past it and its value. */
static dsv4_status parse_option(int argc, char **argv, int *at, dsv4_options *options,
                                dsv4_error *error)
{
    const char *argument = argv[*at];
    const char *value;
    int32_t i = find_option(options->command, argument, &value);
    if (i < 0) return fail_unknown_option(options->command, argument, error);

    const dsv4_option_spec *spec = &dsv4_options_table[i];
    if (options->given[i]) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "option --%s: given twice ('%.80s'); expected it once", spec->name,
                              argument);
    }
    options->given[i] = true;
    *at += 1;
    if (spec->kind == DSV4_OPTION_KIND_FLAG) {
        return value == NULL ? DSV4_OK : fail_value(spec, value, error);
    }
    if (value == NULL) {
        if (*at == argc) {
            char expected[TEXT_BYTES];
            dsv4_options_describe_value(spec, expected, sizeof expected);
            return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                                  "option --%s: the value is missing; expected %s", spec->name,
                                  expected);
        }
        value = argv[*at];
        *at += 1;
    }
    options->texts[i] = value;
    return read_value(spec, value, &options->values[i], &options->reals[i], error);
}

static dsv4_status check_arguments(const dsv4_options *options, dsv4_error *error)
{
    const dsv4_command_spec *command = &dsv4_commands[options->command];
    if (command->is_group) {
        char list[TEXT_BYTES];
        list_commands(options->command, list, sizeof list);
        if (options->n_arguments == 0) {
            return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                                  "the command is missing; expected %s", list);
        }
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "unknown command '%s%s%.80s'; expected %s", command->name,
                              command->name[0] != '\0' ? " " : "", options->arguments[0], list);
    }
    if (options->n_arguments < command->min_arguments) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "an argument is missing; expected %s", command->arguments);
    }
    if (options->n_arguments > command->max_arguments) {
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "unexpected argument '%.80s'; expected %s",
                              options->arguments[command->max_arguments],
                              command->arguments[0] != '\0' ? command->arguments : "none");
    }
    for (int32_t i = 0; i < options->n_arguments; i++) {
        if (options->arguments[i][0] != '\0') continue;
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "argument '' is wrong; expected %s", command->arguments);
    }
    for (int32_t i = 0; i < DSV4_N_OPTIONS; i++) {
        const dsv4_option_spec *spec = &dsv4_options_table[i];
        if (!(spec->required & (1u << options->command))) continue;
        if (options->given[i]) continue;
        return dsv4_error_set(error, DSV4_ERROR_INVALID_ARGUMENT,
                              "option --%s is missing; expected --%s %s", spec->name, spec->name,
                              spec->value_name);
    }
    return DSV4_OK;
}

/* Takes the longest command that argv begins with and returns the index behind it. */
static int take_command(int argc, char **argv, int32_t *command)
{
    for (int32_t n_words = argc > 2 ? 2 : argc - 1; n_words > 0; n_words--) {
        *command = dsv4_options_find_command(argv + 1, n_words);
        if (*command >= 0) return n_words + 1;
    }
    *command = DSV4_COMMAND_TOP;
    return argc > 0 ? 1 : 0;
}

dsv4_status dsv4_options_parse(int argc, char **argv, dsv4_options *options, dsv4_error *error)
{
    *options = (dsv4_options){0};
    for (int32_t i = 0; i < DSV4_N_OPTIONS; i++) {
        const dsv4_option_choice *choices = dsv4_options_table[i].choices;
        if (choices != NULL) options->values[i] = choices[0].value;
    }
    int at = take_command(argc, argv, &options->command);
    options->arguments = argv + at;
    bool options_ended = false;
    while (at < argc) {
        char *argument = argv[at];
        if (!options_ended && strcmp(argument, "--") == 0) {
            options_ended = true;
            at++;
        } else if (!options_ended && argument[0] == '-' && argument[1] != '\0') {
            DSV4_TRY(parse_option(argc, argv, &at, options, error));
        } else {
            options->arguments[options->n_arguments++] = argument;
            at++;
        }
    }
    bool only_tells = options->given[DSV4_OPTION_HELP] || options->given[DSV4_OPTION_VERSION];
    if (only_tells && (!dsv4_commands[options->command].is_group || options->n_arguments == 0)) {
        return DSV4_OK;
    }
    return check_arguments(options, error);
}
