/*
 * test_options.c - the program's command line: tables, parser, help and man page.
 *
 * Place: tests.
 */
#include "options.h"

#include "dsv4/attn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MAX_WORDS 12

typedef struct parsed {
    char *words[MAX_WORDS];
    dsv4_options options;
    dsv4_error error;
} parsed;

/* Parses "dsv4" and the words up to NULL. */
static dsv4_status parse_words(parsed *p, va_list list)
{
    static char program[] = "dsv4";
    int n_words = 1;
    p->words[0] = program;
    for (char *word = va_arg(list, char *); word != NULL; word = va_arg(list, char *)) {
        assert_in_range(n_words, 1, MAX_WORDS - 1);
        p->words[n_words++] = word;
    }
    p->error = (dsv4_error){0};
    return dsv4_options_parse(n_words, p->words, &p->options, &p->error);
}

static void accept(parsed *p, ...)
{
    va_list list;
    va_start(list, p);
    dsv4_status status = parse_words(p, list);
    va_end(list);
    if (status != DSV4_OK) fail_msg("refused: %s", p->error.text);
}

/* The text must be exactly this one: it is what a user reads. */
static void refuse(const char *text, ...)
{
    parsed p;
    va_list list;
    va_start(list, text);
    dsv4_status status = parse_words(&p, list);
    va_end(list);
    assert_int_equal(status, DSV4_ERROR_INVALID_ARGUMENT);
    assert_int_equal(p.error.status, DSV4_ERROR_INVALID_ARGUMENT);
    assert_string_equal(p.error.text, text);
}

static char *render(void (*print)(FILE *, int32_t), int32_t command)
{
    char *text = NULL;
    size_t len_bytes;
    FILE *stream = open_memstream(&text, &len_bytes);
    assert_non_null(stream);
    print(stream, command);
    assert_int_equal(fclose(stream), 0);
    return text;
}

static void print_man(FILE *stream, int32_t command)
{
    (void)command;
    dsv4_options_print_man(stream);
}

static void assert_has(const char *text, const char *part)
{
    if (strstr(text, part) == NULL) fail_msg("'%s' is not in:\n%s", part, text);
}

static void tables_are_complete(void **state)
{
    (void)state;
    uint32_t all_commands = (1u << DSV4_N_COMMANDS) - 1;
    for (int32_t i = 0; i < DSV4_N_COMMANDS; i++) {
        const dsv4_command_spec *command = &dsv4_commands[i];
        assert_non_null(command->name);
        assert_true(strlen(command->arguments) == 0 || command->max_arguments > 0);
        assert_true(strlen(command->summary) > 0 && strlen(command->description) > 0);
        assert_true(command->min_arguments <= command->max_arguments);
    }
    for (int32_t i = 0; i < DSV4_N_OPTIONS; i++) {
        const dsv4_option_spec *option = &dsv4_options_table[i];
        assert_true(option->name != NULL && strlen(option->help) > 0);
        assert_true(option->commands != 0 && (option->commands & ~all_commands) == 0);
        assert_int_equal(option->choices != NULL, option->kind == DSV4_OPTION_KIND_CHOICE);
        bool is_named =
            option->kind != DSV4_OPTION_KIND_FLAG && option->kind != DSV4_OPTION_KIND_CHOICE;
        assert_int_equal(option->value_name != NULL, is_named);
        assert_int_equal(option->required & ~option->commands, 0);
        for (int32_t other = 0; other < i; other++) {
            if (!(option->commands & dsv4_options_table[other].commands)) continue;
            assert_string_not_equal(option->name, dsv4_options_table[other].name);
            bool same_letter = option->letter == dsv4_options_table[other].letter;
            assert_false(option->letter != 0 && same_letter);
        }
    }
}

static void commands_are_found_by_their_words(void **state)
{
    (void)state;
    char attn[] = "attn", run[] = "run", info[] = "info", prefix[] = "att", both[] = "attnrun";
    assert_int_equal(dsv4_options_find_command(NULL, 0), DSV4_COMMAND_TOP);
    assert_int_equal(dsv4_options_find_command((char *[]){attn}, 1), DSV4_COMMAND_ATTN);
    assert_int_equal(dsv4_options_find_command((char *[]){attn, run}, 2), DSV4_COMMAND_ATTN_RUN);
    assert_int_equal(dsv4_options_find_command((char *[]){info}, 1), DSV4_COMMAND_INFO);
    assert_int_equal(dsv4_options_find_command((char *[]){prefix}, 1), -1);
    assert_int_equal(dsv4_options_find_command((char *[]){both}, 1), -1);
    assert_int_equal(dsv4_options_find_command((char *[]){info, run}, 2), -1);
    char in[] = "in", fo[] = "fo", tn_run[] = "tn run", at[] = "at", one[] = "attn run",
         none[] = "";
    assert_int_equal(dsv4_options_find_command((char *[]){in, fo}, 2), -1);
    assert_int_equal(dsv4_options_find_command((char *[]){at, tn_run}, 2), -1);
    assert_int_equal(dsv4_options_find_command((char *[]){one}, 1), -1);
    assert_int_equal(dsv4_options_find_command((char *[]){none}, 1), -1);
    assert_int_equal(dsv4_options_find_command((char *[]){info, none}, 2), -1);
    assert_int_equal(dsv4_options_find_command((char *[]){attn, run, info}, 3), -1);
}

static void reals_are_decimal_and_in_range(void **state)
{
    (void)state;
    parsed p;
    accept(&p, "eval", "-m", "d", "--golden", "g", "--min-cosine", "0.9975", "--max-abs=1e-3",
           "--min-agree", "1", NULL);
    assert_true(p.options.reals[DSV4_OPTION_MIN_COSINE] == 0.9975);
    assert_true(p.options.reals[DSV4_OPTION_MAX_ABS] == 1e-3);
    assert_true(p.options.reals[DSV4_OPTION_MIN_AGREE] == 1.0);
    static const char *const wrong[] = {"",   "x",    "1x",  "nan",  "inf", "0x1p-1",
                                        "-1", "1.01", "1e9", "0.5 ", ".",   "-nan"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[128];
        (void)snprintf(text, sizeof text,
                       "option --min-agree: '%s' is wrong; expected a number from 0 to 1",
                       wrong[i]);
        refuse(text, "eval", "-m", "d", "--golden", "g", "--min-agree", wrong[i], NULL);
    }
}

static void values_are_read_in_each_form(void **state)
{
    (void)state;
    parsed p;
    accept(&p, "attn", "check", "--isa", "avx2", "a", "--math=bf16", "--backend=cpu", "b",
           "--threads", "1024", NULL);
    assert_int_equal(p.options.command, DSV4_COMMAND_ATTN_CHECK);
    assert_int_equal(p.options.values[DSV4_OPTION_ISA], DSV4_CPU_LEVEL_AVX2);
    assert_int_equal(p.options.values[DSV4_OPTION_MATH], DSV4_ATTN_MATH_BF16);
    assert_int_equal(p.options.values[DSV4_OPTION_BACKEND], DSV4_BACKEND_CPU);
    assert_int_equal(p.options.values[DSV4_OPTION_THREADS], 1024);
    assert_int_equal(p.options.n_arguments, 2);
    assert_string_equal(p.options.arguments[0], "a");
    assert_string_equal(p.options.arguments[1], "b");

    accept(&p, "attn", "check", "--math", "fp8", "a", NULL);
    assert_int_equal(p.options.values[DSV4_OPTION_MATH], DSV4_ATTN_MATH_FP8);
    accept(&p, "attn", "run", "in", "-o", "out", NULL);
    assert_string_equal(p.options.texts[DSV4_OPTION_OUTPUT], "out");
    accept(&p, "attn", "run", "-oout=1", "in", NULL);
    assert_string_equal(p.options.texts[DSV4_OPTION_OUTPUT], "out=1");
    accept(&p, "attn", "run", "--output=a=b", "in", NULL);
    assert_string_equal(p.options.texts[DSV4_OPTION_OUTPUT], "a=b");
    accept(&p, "attn", "bench", "--json", "--quick", NULL);
    assert_true(p.options.given[DSV4_OPTION_JSON] && p.options.given[DSV4_OPTION_QUICK]);
    assert_false(p.options.given[DSV4_OPTION_SHAPE]);
}

static void what_is_not_given_has_its_default(void **state)
{
    (void)state;
    parsed p;
    accept(&p, "attn", "run", "in", "-o", "out", NULL);
    assert_int_equal(p.options.values[DSV4_OPTION_BACKEND], DSV4_BACKEND_AUTO);
    assert_int_equal(p.options.values[DSV4_OPTION_ISA], DSV4_CPU_LEVEL_AUTO);
    assert_int_equal(p.options.values[DSV4_OPTION_MATH], DSV4_ATTN_MATH_AUTO);
    assert_int_equal(p.options.values[DSV4_OPTION_OUT_DTYPE], DSV4_DTYPE_F32);
    assert_int_equal(p.options.values[DSV4_OPTION_THREADS], 0);
    assert_null(p.options.texts[DSV4_OPTION_SHAPE]);
}

static void two_dashes_end_options(void **state)
{
    (void)state;
    parsed p;
    accept(&p, "attn", "check", "-", "--", "--isa", "--", NULL);
    assert_int_equal(p.options.n_arguments, 3);
    assert_string_equal(p.options.arguments[0], "-");
    assert_string_equal(p.options.arguments[1], "--isa");
    assert_string_equal(p.options.arguments[2], "--");
    assert_false(p.options.given[DSV4_OPTION_ISA]);
}

static void help_and_version_need_nothing_else(void **state)
{
    (void)state;
    parsed p;
    accept(&p, "--help", NULL);
    assert_int_equal(p.options.command, DSV4_COMMAND_TOP);
    assert_true(p.options.given[DSV4_OPTION_HELP]);
    accept(&p, "--version", NULL);
    assert_true(p.options.given[DSV4_OPTION_VERSION]);
    accept(&p, "attn", "-h", NULL);
    assert_int_equal(p.options.command, DSV4_COMMAND_ATTN);
    accept(&p, "attn", "run", "--help", NULL);
    assert_int_equal(p.options.command, DSV4_COMMAND_ATTN_RUN);
}

static void wrong_options_are_refused(void **state)
{
    (void)state;
    refuse("unknown option '--shape=x'; expected --backend, --isa, --math, --threads or --help",
           "attn", "check", "f", "--shape=x", NULL);
    refuse("unknown option '--thread'; expected --backend, --isa, --math, --threads or --help",
           "attn", "check", "--thread", "3", NULL);
    refuse("unknown option '-x'; expected --help", "info", "-x", NULL);
    refuse("unknown option '--json'; expected --version or --help", "--json", NULL);
    refuse("option --isa: given twice ('--isa=v2'); expected it once", "attn", "check", "f",
           "--isa", "v2", "--isa=v2", NULL);
    refuse("option --isa: the value is missing; expected one of auto, v2, avx2, avx512 or "
           "avx512bf16",
           "attn", "check", "f", "--isa", NULL);
    refuse("option --output: the value is missing; expected a FILE", "attn", "run", "f", "-o",
           NULL);
    refuse("option --output: '' is wrong; expected a FILE", "attn", "run", "f", "--output=", NULL);
    refuse("option --json: 'yes' is wrong; expected no value", "attn", "bench", "--json=yes", NULL);
    refuse("option --help: 'x' is wrong; expected no value", "info", "-hx", NULL);
    refuse("option --backend: 'gpu' is wrong; expected one of auto, ref, cpu, cuda or hip", "attn",
           "bench", "--backend", "gpu", NULL);
    refuse("option --backend: 'cp' is wrong; expected one of auto, ref, cpu, cuda or hip", "attn",
           "bench", "--backend", "cp", NULL);
}

static void wrong_numbers_are_refused(void **state)
{
    (void)state;
    static char *const wrong[] = {
        "0", "1025", "-1", "+1", " 1", "1 ", "0x2", "2.0", "two", "", "99999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[128];
        (void)snprintf(text, sizeof text,
                       "option --threads: '%s' is wrong; expected a whole number from 1 to 1024",
                       wrong[i]);
        refuse(text, "attn", "bench", "--threads", wrong[i], NULL);
    }
}

static void wrong_commands_and_arguments_are_refused(void **state)
{
    (void)state;
    refuse("the command is missing; expected attn check, attn run, attn bench, run, chat, "
           "tokenize, inspect, eval, bench, info or help",
           NULL);
    refuse("the command is missing; expected attn check, attn run or attn bench", "attn", NULL);
    refuse("unknown command 'atn'; expected attn check, attn run, attn bench, run, chat, tokenize, "
           "inspect, eval, bench, info or help",
           "atn", NULL);
    refuse("unknown command ''; expected attn check, attn run, attn bench, run, chat, tokenize, "
           "inspect, eval, bench, info or help",
           "", NULL);
    refuse("unknown command 'attn chek'; expected attn check, attn run or attn bench", "attn",
           "chek", NULL);
    refuse("unknown command 'chek'; expected attn check, attn run, attn bench, run, chat, "
           "tokenize, inspect, eval, bench, info or help",
           "chek", "--help", NULL);
    refuse("an argument is missing; expected FILE...", "attn", "check", NULL);
    refuse("an argument is missing; expected FILE", "attn", "run", "-o", "x", NULL);
    refuse("option --output is missing; expected --output FILE", "attn", "run", "f", NULL);
    refuse("unexpected argument 'g'; expected FILE", "attn", "run", "f", "g", "-o", "x", NULL);
    refuse("unexpected argument 'x'; expected none", "info", "x", NULL);
    refuse("argument '' is wrong; expected DIR", "inspect", "", NULL);
    refuse("argument '' is wrong; expected FILE...", "attn", "check", "f", "", NULL);
}

/* A failure still says which command was meant, so that a hint can name it. */
static void a_failure_keeps_the_command(void **state)
{
    (void)state;
    char program[] = "dsv4", attn[] = "attn", run[] = "run", option[] = "--bad";
    char *words[] = {program, attn, run, option};
    dsv4_options options;
    assert_int_equal(dsv4_options_parse(4, words, &options, NULL), DSV4_ERROR_INVALID_ARGUMENT);
    assert_int_equal(options.command, DSV4_COMMAND_ATTN_RUN);
}

static void long_words_fit_the_error(void **state)
{
    (void)state;
    char program[] = "dsv4", attn[] = "attn", check[] = "check", option[2000];
    memset(option, 'x', sizeof option);
    memcpy(option, "--", 2);
    option[sizeof option - 1] = '\0';
    char *words[] = {program, attn, check, option};
    dsv4_options options;
    dsv4_error error;
    assert_int_equal(dsv4_options_parse(4, words, &options, &error), DSV4_ERROR_INVALID_ARGUMENT);
    assert_has(error.text, "expected --backend, --isa, --math, --threads or --help");
}

static bool takes_name(int32_t command, const char *name)
{
    bool takes = false;
    for (int32_t i = 0; i < DSV4_N_OPTIONS; i++) {
        const dsv4_option_spec *option = &dsv4_options_table[i];
        takes |= (option->commands & (1u << command)) && strcmp(option->name, name) == 0;
    }
    return takes;
}

static void help_of_each_command_has_its_options(void **state)
{
    (void)state;
    for (int32_t command = 0; command < DSV4_N_COMMANDS; command++) {
        char *text = render(dsv4_options_print_help, command);
        assert_has(text, "Usage: dsv4");
        assert_has(text, dsv4_commands[command].name);
        for (int32_t i = 0; i < DSV4_N_OPTIONS; i++) {
            char name[64];
            (void)snprintf(name, sizeof name, " --%s", dsv4_options_table[i].name);
            bool takes = takes_name(command, dsv4_options_table[i].name);
            if (takes) assert_has(text, name);
            assert_true(takes || strstr(text, name) == NULL);
        }
        for (const char *line = text; *line != '\0'; line += strcspn(line, "\n") + 1) {
            assert_in_range(strcspn(line, "\n"), 0, 80);
        }
        free(text);
    }
}

static void help_of_groups_has_their_commands(void **state)
{
    (void)state;
    char *top = render(dsv4_options_print_help, DSV4_COMMAND_TOP);
    char *attn = render(dsv4_options_print_help, DSV4_COMMAND_ATTN);
    assert_has(top, "\n  attn check ");
    assert_has(top, "\n  info ");
    assert_has(attn, "\n  attn bench ");
    assert_null(strstr(attn, "\n  info "));
    free(top);
    free(attn);
}

static void help_shows_choices_defaults_and_limits(void **state)
{
    (void)state;
    char *text = render(dsv4_options_print_help, DSV4_COMMAND_ATTN_RUN);
    assert_has(text, "Usage: dsv4 attn run [OPTION]... --output FILE FILE\n");
    assert_has(text,
               "  --backend auto|ref|cpu|cuda|hip\n                          where to compute");
    assert_has(text, "(default: f32)");
    assert_has(text, "(required)");
    assert_has(text, "  -o, --output FILE       safetensors");
    assert_has(text, "from 1 to 1024)");
    free(text);
}

/* Only macros of the man package, each command and option, and no character that roff takes. */
static void man_page_is_roff(void **state)
{
    (void)state;
    static const char *const macros[] = {".TH ", ".SH ",  ".SS ",  ".TP\n", ".B ",
                                         ".BR ", ".PP\n", ".nf\n", ".fi\n"};
    char *text = render(print_man, 0);
    assert_int_equal(strncmp(text, ".TH DSV4 1 ", 11), 0);
    for (const char *line = text; *line != '\0'; line += strcspn(line, "\n") + 1) {
        bool is_macro = false;
        for (size_t i = 0; i < sizeof macros / sizeof *macros; i++) {
            is_macro = is_macro || strncmp(line, macros[i], strlen(macros[i])) == 0;
        }
        if (!is_macro && (*line == '.' || *line == '\'')) fail_msg("no macro: %.40s", line);
    }
    for (int32_t i = 0; i < DSV4_N_COMMANDS; i++) {
        if (dsv4_commands[i].is_group) continue;
        char heading[64];
        (void)snprintf(heading, sizeof heading, "\n.SS dsv4 %s [OPTION]", dsv4_commands[i].name);
        assert_has(text, heading);
    }
    assert_has(text, "\\-\\-out\\-dtype f32|bf16|fp8\n");
    assert_has(text, "\n.SH CASE FILES\n");
    assert_has(text, "\n.SH EXIT STATUS\n.nf\n0  success\n");
    assert_has(text, "2\\(ha\\-9");
    assert_null(strstr(text, " --"));
    assert_null(strstr(text, " '"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_complete),
        cmocka_unit_test(commands_are_found_by_their_words),
        cmocka_unit_test(values_are_read_in_each_form),
        cmocka_unit_test(reals_are_decimal_and_in_range),
        cmocka_unit_test(what_is_not_given_has_its_default),
        cmocka_unit_test(two_dashes_end_options),
        cmocka_unit_test(help_and_version_need_nothing_else),
        cmocka_unit_test(wrong_options_are_refused),
        cmocka_unit_test(wrong_numbers_are_refused),
        cmocka_unit_test(wrong_commands_and_arguments_are_refused),
        cmocka_unit_test(a_failure_keeps_the_command),
        cmocka_unit_test(long_words_fit_the_error),
        cmocka_unit_test(help_of_each_command_has_its_options),
        cmocka_unit_test(help_of_groups_has_their_commands),
        cmocka_unit_test(help_shows_choices_defaults_and_limits),
        cmocka_unit_test(man_page_is_roff),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
