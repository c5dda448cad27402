/*
 * test_dsml.c - the parser of a model's turn: what it forgives, what it does not, and that it reads
 * back what the chat encoder writes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "text/chat.h"
#include "text/dsml.h"
#include "test_files.h"

#include <jansson.h>

#define EOS         "<｜end▁of▁sentence｜>"
#define BEGIN       "<｜DSML｜tool_calls>\n"
#define END         "</｜DSML｜tool_calls>"
#define INVOKE(n)   "<｜DSML｜invoke name=\"" n "\">\n"
#define TEXT(k, v)  "<｜DSML｜parameter name=\"" k "\" string=\"true\">" v "</｜DSML｜parameter>\n"
#define VALUE(k, v) "<｜DSML｜parameter name=\"" k "\" string=\"false\">" v "</｜DSML｜parameter>\n"
#define UNINVOKE    "</｜DSML｜invoke>\n"
#define SIMPLE      BEGIN INVOKE("f") TEXT("a", "b") UNINVOKE END

/* From a heap block of exactly its length: AddressSanitizer sees a read past the end. */
static dsv4_turn parse(const char *text, size_t len_bytes, bool thinking)
{
    dsv4_turn turn;
    dsv4_error error = {0};
    char *copy = malloc(len_bytes + (len_bytes == 0));
    assert_non_null(copy);
    memcpy(copy, text, len_bytes);
    if (dsv4_turn_parse(copy, len_bytes, thinking, &turn, &error) != DSV4_OK) {
        fail_msg("%s", error.text);
    }
    free(copy);
    return turn;
}

typedef struct example {
    const char *text;
    bool thinking;
    const char *reasoning;
    const char *content;
    const char *calls; /* "name arguments;" for each */
} example;

static void check(const example *e, bool malformed)
{
    dsv4_turn turn = parse(e->text, strlen(e->text), e->thinking);
    char calls[1024] = "";
    size_t pos = 0;
    for (int64_t i = 0; i < turn.n_calls; i++) {
        pos += (size_t)snprintf(calls + pos, sizeof calls - pos, "%s %s;", turn.calls[i].name,
                                turn.calls[i].arguments_json);
        json_t *arguments = json_loads(turn.calls[i].arguments_json,
                                       JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
        assert_true(json_is_object(arguments));
        json_decref(arguments);
    }
    if (turn.malformed != malformed || strcmp(turn.reasoning, e->reasoning) != 0 ||
        strcmp(turn.content, e->content) != 0 || strcmp(calls, e->calls) != 0) {
        fail_msg("'%s': malformed %d, reasoning '%s', content '%s', calls '%s'", e->text,
                 turn.malformed, turn.reasoning, turn.content, calls);
    }
    dsv4_turn_free(&turn);
    assert_null(turn.content);
    assert_int_equal(turn.n_calls, 0);
}

static void test_well_formed(void **state)
{
    (void)state;
    static const example examples[] = {
        {"", false, "", "", ""},
        {"hello", false, "", "hello", ""},
        {"hello" EOS "rest", false, "", "hello", ""},
        {EOS, true, "", "", ""},
        {"why</think>answer" EOS, true, "why", "answer", ""},
        {"</think>answer", true, "", "answer", ""},
        {"a</think>b</think>c", true, "a", "b</think>c", ""},
        {"a</think>b", false, "", "a</think>b", ""},
        {"ok\n\n" SIMPLE EOS, false, "", "ok", "f {\"a\": \"b\"};"},
        {"\n\n" SIMPLE EOS, false, "", "", "f {\"a\": \"b\"};"},
        {"r</think>c\n\n" SIMPLE, true, "r", "c", "f {\"a\": \"b\"};"},
        {"c\n\n" BEGIN INVOKE("f") UNINVOKE END, false, "", "c", "f {};"},
        {"c\n\n" BEGIN INVOKE("f") TEXT("a", "x\ny \"z\" <b>\\\t\x01") VALUE(
             "b", "[1, {\"c\": null}]") UNINVOKE INVOKE("g") VALUE("n", "-1.5e3") UNINVOKE END,
         false, "", "c",
         "f {\"a\": \"x\\ny \\\"z\\\" <b>\\\\\\t\\u0001\", \"b\": [1, {\"c\": null}]};g {\"n\": "
         "-1.5e3};"},
        {SIMPLE, false, "", "", "f {\"a\": \"b\"};"},
        {"\n\n" BEGIN INVOKE("f") VALUE("n", "123456789012345678901234567890") UNINVOKE END, false,
         "", "", "f {\"n\": 123456789012345678901234567890};"},
        {"\n\n" BEGIN INVOKE("f") TEXT("ключ", "") UNINVOKE END, false, "", "",
         "f {\"ключ\": \"\"};"},
        {"\n\n" BEGIN END, false, "", "", ""},
        {"\n\n" BEGIN INVOKE("f") TEXT("a", "\xff"
                                            "b\xe4\xb8") UNINVOKE END,
         false, "", "",
         "f {\"a\": \"\xef\xbf\xbd"
         "b\xef\xbf\xbd\xef\xbf\xbd\"};"},
    };
    for (size_t i = 0; i < LENGTH_OF(examples); i++) check(&examples[i], false);
}

static void test_forgiven(void **state)
{
    (void)state;
    static const example examples[] = {
        /* a missing end tag */
        {"c\n\n" BEGIN INVOKE("f") TEXT("a", "b") UNINVOKE, false, "", "c", "f {\"a\": \"b\"};"},
        {"c\n\n" BEGIN INVOKE("f") TEXT("a", "b") UNINVOKE "</｜DSML｜tool_ca", false, "", "c",
         "f {\"a\": \"b\"};"},
        {"c\n\n" BEGIN INVOKE("f") TEXT("a", "b") END, false, "", "c", "f {\"a\": \"b\"};"},
        {"c\n\n" BEGIN INVOKE("f") INVOKE("g") UNINVOKE END, false, "", "c", "f {};g {};"},
        /* blanks between tags and inside of them, or none */
        {"c\n\n<｜DSML｜tool_calls > \n\t<｜DSML｜invoke  name=\"f\" "
         ">\r\n\n<｜DSML｜parameter\tname=\"a\"  "
         "string=\"true\" > b </｜DSML｜parameter >\n\n\n</｜DSML｜invoke >  </｜DSML｜tool_calls "
         ">",
         false, "", "c", "f {\"a\": \" b \"};"},
        {"<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\"><｜DSML｜parameter name=\"a\" "
         "string=\"true\">b"
         "</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜tool_calls>",
         false, "", "", "f {\"a\": \"b\"};"},
        {"\n\n\n" SIMPLE, false, "", "", "f {\"a\": \"b\"};"},
        {" \n" SIMPLE, false, "", "", "f {\"a\": \"b\"};"},
        {"c\n\n\n" SIMPLE, false, "", "c\n", "f {\"a\": \"b\"};"},
        /* text after the calls */
        {"c\n\n" SIMPLE "\n\nSo I called f." EOS, false, "", "c", "f {\"a\": \"b\"};"},
        {"c\n\n" SIMPLE "\n\n" SIMPLE, false, "", "c", "f {\"a\": \"b\"};"},
        {"c\n\n" BEGIN INVOKE("f") UNINVOKE "and now?", false, "", "c", "f {};"},
        /* no end of thinking: all of it is reasoning */
        {"thoughts", true, "thoughts", "", ""},
        {"see \n\n" SIMPLE "</think>yes", true, "see \n\n" SIMPLE, "yes", ""},
        /* tags that do not begin a block */
        {"Write `<｜DSML｜tool_calls>` first.", false, "", "Write `<｜DSML｜tool_calls>` first.",
         ""},
        {"c\n" SIMPLE, false, "", "c\n" SIMPLE, ""},
        {"c\n\n<｜DSML｜tool_calls_x>", false, "", "c\n\n<｜DSML｜tool_calls_x>", ""},
        {"a <｜DSML｜tool_calls> b\n\n" SIMPLE, false, "", "a <｜DSML｜tool_calls> b",
         "f {\"a\": \"b\"};"},
    };
    for (size_t i = 0; i < LENGTH_OF(examples); i++) check(&examples[i], false);
}

/* A block that could be misread is content, with the text before it. */
static void test_malformed(void **state)
{
    (void)state;
    static const char *const blocks[] = {
        /* duplicates */
        BEGIN INVOKE("f") TEXT("a", "b") TEXT("a", "c") UNINVOKE END,
        BEGIN INVOKE("f") TEXT("a", "b") TEXT("x", "") VALUE("a", "1") UNINVOKE END,
        BEGIN INVOKE("g") UNINVOKE INVOKE("f") TEXT("a", "b") TEXT("a", "b") UNINVOKE END,
        /* names */
        BEGIN INVOKE("") UNINVOKE END,
        BEGIN "<｜DSML｜invoke>\n" UNINVOKE END,
        BEGIN "<｜DSML｜invokename=\"f\">\n" UNINVOKE END,
        BEGIN "<｜DSML｜invoke name=f>\n" UNINVOKE END,
        BEGIN "<｜DSML｜invoke name=\"f>\n" UNINVOKE END,
        BEGIN "<｜DSML｜invoke name=\"f\" id=\"1\">\n" UNINVOKE END,
        BEGIN INVOKE("f\ng") UNINVOKE END,
        BEGIN INVOKE("f\xff") UNINVOKE END,
        BEGIN INVOKE("g") UNINVOKE INVOKE("") UNINVOKE END,
        BEGIN INVOKE("f") TEXT("", "b") UNINVOKE END,
        BEGIN INVOKE("f") TEXT("a\x7f", "b") UNINVOKE END,
        /* parameters */
        BEGIN INVOKE("f") "<｜DSML｜parameter name=\"a\">b</｜DSML｜parameter>" UNINVOKE END,
        BEGIN INVOKE("f") "<｜DSML｜parameter string=\"true\">b</｜DSML｜parameter>" UNINVOKE END,
        BEGIN INVOKE(
            "f") "<｜DSML｜parameter name=\"a\" string=\"yes\">b</｜DSML｜parameter>" UNINVOKE END,
        BEGIN INVOKE("f") "<｜DSML｜parameter name=\"a\" type=\"x\" "
                          "string=\"true\">b</｜DSML｜parameter>" UNINVOKE END,
        BEGIN INVOKE("f") "<｜DSML｜parameter name=\"a\" string=\"true\"" UNINVOKE END,
        BEGIN INVOKE("f") VALUE("a", "oops") UNINVOKE END,
        BEGIN INVOKE("f") VALUE("a", "") UNINVOKE END,
        BEGIN INVOKE("f") VALUE("a", "1}, \"b\": {") UNINVOKE END,
        BEGIN INVOKE("f") VALUE("a", "1, \"b\": 2") UNINVOKE END,
        /* tags in a value: where does it end? */
        BEGIN INVOKE("f") "<｜DSML｜parameter name=\"a\" string=\"true\">x\n" TEXT("b", "y")
            UNINVOKE END,
        BEGIN INVOKE("f") "<｜DSML｜parameter name=\"a\" string=\"true\">x\n" UNINVOKE INVOKE("g")
            TEXT("b", "y") UNINVOKE END,
        BEGIN INVOKE("f") TEXT("a", INVOKE("g")) UNINVOKE END,
        BEGIN INVOKE("f") TEXT("a", END) UNINVOKE END,
        BEGIN INVOKE("f") TEXT("a", BEGIN) UNINVOKE END,
        /* what may have been cut */
        "<｜DSML｜tool_calls",
        BEGIN,
        BEGIN INVOKE("f"),
        BEGIN INVOKE("f") TEXT("a", "b"),
        BEGIN INVOKE("f") TEXT("a", "b") "</｜DSML｜inv",
        BEGIN INVOKE("f") "<｜DSML｜parameter name=\"a\" string=\"true\">/home/us",
        BEGIN INVOKE("f") UNINVOKE "<｜DSML｜invoke name=\"g",
        BEGIN INVOKE("f") UNINVOKE "<｜DSML｜invoke",
        /* text where none belongs */
        BEGIN "First: " INVOKE("f") UNINVOKE END,
        BEGIN INVOKE("f") "text" TEXT("a", "b") UNINVOKE END,
        BEGIN INVOKE("f") TEXT("a", "b") "text" UNINVOKE END,
        BEGIN INVOKE("f") UNINVOKE "then" INVOKE("g") UNINVOKE END,
    };
    for (size_t i = 0; i < LENGTH_OF(blocks); i++) {
        char text[1024], content[1024];
        (void)snprintf(text, sizeof text, "r</think>c\n\n%s" EOS, blocks[i]);
        (void)snprintf(content, sizeof content, "c\n\n%s", blocks[i]);
        check(&(example){text, true, "r", content, ""}, true);
    }
    check(&(example){"r\n\n" SIMPLE, true, "r\n\n" SIMPLE, "", ""}, true);
}

static void test_nul(void **state)
{
    (void)state;
    static const char text[] = "r\0</think>\0c\n\n" BEGIN INVOKE("f") TEXT("a", "\0b") UNINVOKE END;
    dsv4_turn turn = parse(text, sizeof text - 1, true);
    assert_string_equal(turn.reasoning, "r\xef\xbf\xbd");
    assert_string_equal(turn.content, "\xef\xbf\xbd"
                                      "c");
    assert_int_equal(turn.n_calls, 1);
    assert_string_equal(turn.calls[0].arguments_json, "{\"a\": \"\\u0000b\"}");
    dsv4_turn_free(&turn);
    static const char bad[] = BEGIN INVOKE("f") VALUE("a", "1\0") UNINVOKE END;
    turn = parse(bad, sizeof bad - 1, false);
    assert_true(turn.malformed);
    assert_int_equal(turn.n_calls, 0);
    dsv4_turn_free(&turn);
    dsv4_turn_free(&turn);
    assert_int_equal(dsv4_turn_parse(NULL, 0, true, &turn, NULL), DSV4_OK);
    assert_string_equal(turn.content, "");
    dsv4_turn_free(&turn);
}

/* Many calls and parameters; the last duplicate among thousands is seen. */
static void test_large(void **state)
{
    (void)state;
    enum { N = 5000, ROOM = 80 };
    for (int with_duplicate = 0; with_duplicate < 2; with_duplicate++) {
        char *text = malloc(2 * N * ROOM), *out = text;
        assert_non_null(text);
        out += sprintf(out, "%s%s", BEGIN, INVOKE("f"));
        for (int i = 0; i < N; i++) {
            out += sprintf(
                out, "<｜DSML｜parameter name=\"k%d\" string=\"false\">%d</｜DSML｜parameter>",
                with_duplicate && i == N - 1 ? 17 : i, i);
        }
        out += sprintf(out, "%s", UNINVOKE);
        for (int i = 0; i < N; i++) out += sprintf(out, "%s%s", INVOKE("g"), UNINVOKE);
        dsv4_turn turn = parse(text, (size_t)(out - text), false);
        assert_int_equal(turn.malformed, with_duplicate);
        assert_int_equal(turn.n_calls, with_duplicate ? 0 : N + 1);
        dsv4_turn_free(&turn);
        free(text);
    }
}

/* What the encoder writes of a turn, the parser reads. */
static void test_round_trip(void **state)
{
    (void)state;
    static const char arguments[] = "{\"a\": \"x\\n<y> \\\"q\\\"\", \"b\": 1.5, \"c\": [true, "
                                    "null, {}], \"\\u00e9\": \"\", \"d\": -3}";
    json_t *messages = json_pack(
        "[{s:s,s:s},{s:s,s:s,s:s,s:[{s:{s:s,s:s}},{s:{s:s,s:s}}]}]", "role", "user", "content", "u",
        "role", "assistant", "content", "a", "reasoning_content", "r", "tool_calls", "function",
        "name", "f", "arguments", arguments, "function", "name", "g", "arguments", "{}");
    char *json = json_dumps(messages, 0), *prompt = NULL;
    dsv4_chat_options options;
    size_t len_bytes = 0;
    dsv4_chat_options_default(&options);
    options.thinking = true;
    assert_int_equal(dsv4_chat_encode(json, strlen(json), &options, &prompt, &len_bytes, NULL),
                     DSV4_OK);
    const char *answer = strstr(prompt, "<think>") + strlen("<think>");
    dsv4_turn turn = parse(answer, strlen(answer), true);
    assert_false(turn.malformed);
    assert_string_equal(turn.reasoning, "r");
    assert_string_equal(turn.content, "a");
    assert_int_equal(turn.n_calls, 2);
    assert_string_equal(turn.calls[0].name, "f");
    assert_string_equal(turn.calls[0].arguments_json,
                        "{\"a\": \"x\\n<y> \\\"q\\\"\", \"b\": 1.5, \"c\": [true, null, {}], "
                        "\"é\": \"\", \"d\": -3}");
    assert_string_equal(turn.calls[1].name, "g");
    assert_string_equal(turn.calls[1].arguments_json, "{}");
    dsv4_turn_free(&turn);
    free(prompt);
    free(json);
    json_decref(messages);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_well_formed), cmocka_unit_test(test_forgiven),
        cmocka_unit_test(test_malformed),   cmocka_unit_test(test_nul),
        cmocka_unit_test(test_large),       cmocka_unit_test(test_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
