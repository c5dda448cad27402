/*
 * options_help.c - prints the option tables: --help in plain text, the man page in roff.
 *
 * Place: program. Both come from the same rows, so they cannot disagree with the parser.
 */
#include "options.h"

#include <string.h>

enum { WIDTH_COLUMNS = 80, HELP_COLUMN = 26, LABEL_BYTES = 128 };

/* Prints words between columns `indent` and WIDTH_COLUMNS; `column` is where the cursor stands. */
static void print_wrapped(FILE *stream, size_t column, size_t indent, const char *text)
{
    bool at_start = true;
    while (*text != '\0') {
        size_t word_bytes = strcspn(text, " ");
        if (!at_start && column + 1 + word_bytes > WIDTH_COLUMNS) {
            fputc('\n', stream);
            column = 0;
            at_start = true;
        }
        if (at_start && column < indent) {
            fprintf(stream, "%*s", (int)(indent - column), "");
            column = indent;
        }
        if (!at_start) {
            fputc(' ', stream);
            column++;
        }
        fwrite(text, 1, word_bytes, stream);
        column += word_bytes;
        at_start = false;
        text += word_bytes;
        text += strspn(text, " ");
    }
    fputc('\n', stream);
}

static void print_entry(FILE *stream, const char *label, const char *text)
{
    fprintf(stream, "  %s", label);
    size_t column = 2 + strlen(label);
    if (column + 2 > HELP_COLUMN) {
        fputc('\n', stream);
        column = 0;
    }
    print_wrapped(stream, column, HELP_COLUMN, text);
}

/* "-o, --output FILE", "--backend auto|ref|cpu" */
static void make_label(const dsv4_option_spec *spec, char *label, size_t label_bytes)
{
    char value[LABEL_BYTES] = "";
    size_t used = 0;
    for (const dsv4_option_choice *c = spec->choices; c != NULL && c->name != NULL; c++) {
        int n = snprintf(value + used, sizeof value - used, "%s%s", used > 0 ? "|" : "", c->name);
        if (n < 0 || used + (size_t)n >= sizeof value) break;
        used += (size_t)n;
    }
    if (spec->value_name != NULL) (void)snprintf(value, sizeof value, "%s", spec->value_name);
    char letter[8] = "";
    if (spec->letter != 0) (void)snprintf(letter, sizeof letter, "-%c, ", spec->letter);
    (void)snprintf(label, label_bytes, "%s--%s%s%s", letter, spec->name,
                   value[0] != '\0' ? " " : "", value);
}

/* The help text with the default or the rule that the table implies. */
static void make_text(const dsv4_option_spec *spec, int32_t command, char *text, size_t text_bytes)
{
    char rule[LABEL_BYTES] = "";
    if (spec->choices != NULL) {
        (void)snprintf(rule, sizeof rule, " (default: %s)", spec->choices[0].name);
    } else if (spec->kind == DSV4_OPTION_KIND_INTEGER || spec->kind == DSV4_OPTION_KIND_REAL) {
        char expected[LABEL_BYTES - 4];
        dsv4_options_describe_value(spec, expected, sizeof expected);
        (void)snprintf(rule, sizeof rule, " (%s)", expected);
    } else if (spec->required & (1u << command)) {
        (void)snprintf(rule, sizeof rule, " (required)");
    }
    (void)snprintf(text, text_bytes, "%s%s", spec->help, rule);
}

/* "dsv4 attn run [OPTION]... --output FILE FILE" */
static void make_usage(int32_t command, char *text, size_t text_bytes)
{
    const dsv4_command_spec *spec = &dsv4_commands[command];
    char required[LABEL_BYTES] = "";
    for (int32_t i = 0; i < DSV4_N_OPTIONS; i++) {
        const dsv4_option_spec *option = &dsv4_options_table[i];
        if (!(option->required & (1u << command))) continue;
        size_t used = strlen(required);
        (void)snprintf(required + used, sizeof required - used, " --%s %s", option->name,
                       option->value_name);
    }
    const char *space = spec->name[0] != '\0' ? " " : "";
    if (spec->is_group) {
        (void)snprintf(text, text_bytes, "dsv4%s%s COMMAND [OPTION]... [ARGUMENT]...", space,
                       spec->name);
        return;
    }
    (void)snprintf(text, text_bytes, "dsv4%s%s [OPTION]...%s%s%s", space, spec->name, required,
                   spec->arguments[0] != '\0' ? " " : "", spec->arguments);
}

static bool is_inside(int32_t command, int32_t group)
{
    const char *prefix = dsv4_commands[group].name;
    return !dsv4_commands[command].is_group &&
           strncmp(dsv4_commands[command].name, prefix, strlen(prefix)) == 0;
}

void dsv4_options_print_help(FILE *stream, int32_t command)
{
    const dsv4_command_spec *spec = &dsv4_commands[command];
    char usage[2 * LABEL_BYTES];
    make_usage(command, usage, sizeof usage);
    fprintf(stream, "Usage: %s\n\n", usage);
    print_wrapped(stream, 0, 0, spec->description);
    if (spec->is_group) {
        fprintf(stream, "\nCommands:\n");
        for (int32_t i = 0; i < DSV4_N_COMMANDS; i++) {
            if (!is_inside(i, command)) continue;
            print_entry(stream, dsv4_commands[i].name, dsv4_commands[i].summary);
        }
    }
    fprintf(stream, "\nOptions:\n");
    for (int32_t i = 0; i < DSV4_N_OPTIONS; i++) {
        const dsv4_option_spec *option = &dsv4_options_table[i];
        if (!(option->commands & (1u << command))) continue;
        char label[2 * LABEL_BYTES], text[4 * LABEL_BYTES];
        make_label(option, label, sizeof label);
        make_text(option, command, text, sizeof text);
        print_entry(stream, label, text);
    }
}

/* Text with what roff would take for itself escaped. */
static void print_roff(FILE *stream, const char *text)
{
    bool at_line_start = true;
    for (; *text != '\0'; text++) {
        if (at_line_start && (*text == '.' || *text == '\'')) fputs("\\&", stream);
        at_line_start = *text == '\n';
        switch (*text) {
        case '\\': fputs("\\e", stream); break;
        case '-': fputs("\\-", stream); break;
        case '\'': fputs("\\(aq", stream); break;
        case '^': fputs("\\(ha", stream); break;
        default: fputc(*text, stream); break;
        }
    }
}

static void print_roff_options(FILE *stream, int32_t command)
{
    for (int32_t i = 0; i < DSV4_N_OPTIONS; i++) {
        const dsv4_option_spec *option = &dsv4_options_table[i];
        if (!(option->commands & (1u << command))) continue;
        char label[2 * LABEL_BYTES], text[4 * LABEL_BYTES];
        make_label(option, label, sizeof label);
        make_text(option, command, text, sizeof text);
        fputs(".TP\n.B ", stream);
        print_roff(stream, label);
        fputc('\n', stream);
        print_roff(stream, text);
        fputc('\n', stream);
    }
}

static void print_roff_command(FILE *stream, int32_t command)
{
    char usage[2 * LABEL_BYTES];
    make_usage(command, usage, sizeof usage);
    fputs(".SS ", stream);
    print_roff(stream, usage);
    fputc('\n', stream);
    print_roff(stream, dsv4_commands[command].description);
    fputc('\n', stream);
    print_roff_options(stream, command);
}

static void print_roff_section(FILE *stream, const dsv4_man_section *section)
{
    if (section->title != NULL) {
        fprintf(stream, ".SH %s\n", section->title);
    } else {
        fputs(".PP\n", stream);
    }
    if (section->is_literal) fputs(".nf\n", stream);
    print_roff(stream, section->text);
    if (section->is_literal) {
        fputs(".fi\n", stream);
    } else {
        fputc('\n', stream);
    }
}

void dsv4_options_print_man(FILE *stream)
{
    const dsv4_command_spec *top = &dsv4_commands[DSV4_COMMAND_TOP];
    fprintf(stream, ".TH DSV4 1 \"\" \"dsv4 %s\" \"User Commands\"\n.SH NAME\ndsv4 \\- ",
            DSV4_VERSION_STRING);
    print_roff(stream, top->summary);
    fputs("\n.SH SYNOPSIS\n.B dsv4\n", stream);
    fputs("COMMAND [OPTION]... [ARGUMENT]...\n.SH DESCRIPTION\n", stream);
    print_roff(stream, top->description);
    fputs("\n.PP\nOptions are written\n.B \\-\\-name value\nor\n.BR \\-\\-name=value ;\n.B \\-\\-\n"
          "ends them.\n.SH COMMANDS\n",
          stream);
    for (int32_t i = 0; i < DSV4_N_COMMANDS; i++) {
        if (!dsv4_commands[i].is_group) print_roff_command(stream, i);
    }
    fputs(".SH OPTIONS WITHOUT A COMMAND\n", stream);
    print_roff_options(stream, DSV4_COMMAND_TOP);
    for (int32_t i = 0; i < dsv4_n_man_sections; i++) {
        print_roff_section(stream, &dsv4_man_sections[i]);
    }
}
