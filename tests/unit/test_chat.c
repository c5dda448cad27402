/*
 * test_chat.c - the chat encoder, against the release's encoder and on conversations of our own.
 *
 * fixtures/chat holds the four fixtures of the V4 release (test_input_*.json, test_output_*.txt) and
 * what its encoder makes of random conversations (tests/gen/make_chat_fixtures.py).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "io/file_read.h"
#include "text/chat.h"
#include "test_files.h"

#include <jansson.h>

#define FIXTURES  DSV4_TEST_FIXTURES "/chat/"
#define BOS       "<｜begin▁of▁sentence｜>"
#define EOS       "<｜end▁of▁sentence｜>"
#define USER      "<｜User｜>"
#define ASK       "<｜Assistant｜></think>"
#define ASK_THINK "<｜Assistant｜><think>"

/* Letters as in conversations.json: t thinking, m max effort, k keep reasoning, n no BOS. */
static dsv4_chat_options options_of(const char *letters)
{
    dsv4_chat_options options;
    dsv4_chat_options_default(&options);
    assert_true(options.drop_old_reasoning && options.add_bos);
    assert_false(options.thinking || options.max_effort);
    options.thinking = strchr(letters, 't') != NULL;
    options.max_effort = strchr(letters, 'm') != NULL;
    options.drop_old_reasoning = strchr(letters, 'k') == NULL;
    options.add_bos = strchr(letters, 'n') == NULL;
    return options;
}

static void assert_prompt(const char *letters, const char *json, size_t json_bytes,
                          const char *expected, size_t expected_bytes)
{
    dsv4_chat_options options = options_of(letters);
    dsv4_error error = {0};
    char *text = NULL;
    size_t len_bytes = 0;
    if (dsv4_chat_encode(json, json_bytes, &options, &text, &len_bytes, &error) != DSV4_OK) {
        fail_msg("%s\n%.*s", error.text, (int)json_bytes, json);
    }
    if (len_bytes != expected_bytes || memcmp(text, expected, len_bytes) != 0) {
        fail_msg("'%s' of\n%.*s\nis\n%s\nexpected\n%s", letters, (int)json_bytes, json, text,
                 expected);
    }
    assert_int_equal(text[len_bytes], '\0');
    free(text);
}

static void assert_encodes(const char *letters, const char *json, const char *expected)
{
    assert_prompt(letters, json, strlen(json), expected, strlen(expected));
}

static char *read_fixture(const char *format, int number, size_t *len_bytes)
{
    char path[1024];
    void *bytes = NULL;
    dsv4_error error = {0};
    (void)snprintf(path, sizeof path, "%stest_%s_%d.%s", FIXTURES, format, number,
                   *format == 'i' ? "json" : "txt");
    if (dsv4_file_read(path, 1 << 20, &bytes, len_bytes, &error) != DSV4_OK) {
        fail_msg("%s", error.text);
    }
    return bytes;
}

/* As the release tests them: the last in chat mode, the others in thinking mode. */
static void test_release_fixtures(void **state)
{
    (void)state;
    for (int i = 1; i <= 4; i++) {
        size_t input_bytes = 0, output_bytes = 0;
        char *input = read_fixture("input", i, &input_bytes);
        char *output = read_fixture("output", i, &output_bytes);
        assert_prompt(i == 4 ? "" : "t", input, input_bytes, output, output_bytes);
        free(input);
        free(output);
    }
}

static void test_cases(void **state)
{
    (void)state;
    json_error_t error;
    json_t *cases = json_load_file(FIXTURES "conversations.json", JSON_ALLOW_NUL, &error);
    if (cases == NULL) fail_msg("%s", error.text);
    assert_int_equal(json_array_size(cases), 400);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *row = json_array_get(cases, i), *prompt = json_array_get(row, 2);
        char *json = json_dumps(json_array_get(row, 1), JSON_REAL_PRECISION(17));
        assert_non_null(json);
        assert_prompt(json_string_value(json_array_get(row, 0)), json, strlen(json),
                      json_string_value(prompt), json_string_length(prompt));
        free(json);
    }
    json_decref(cases);
}

#define SYSTEM(text)        "{\"role\":\"system\",\"content\":\"" text "\"}"
#define MESSAGE(role, text) "{\"role\":\"" role "\",\"content\":\"" text "\"}"
#define TOOLS               "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"n\":1.50}}]"

static char *prompt_of(const char *letters, const char *json)
{
    dsv4_chat_options options = options_of(letters);
    dsv4_error error = {0};
    char *text = NULL;
    size_t len_bytes = 0;
    if (dsv4_chat_encode(json, strlen(json), &options, &text, &len_bytes, &error) != DSV4_OK) {
        fail_msg("%s", error.text);
    }
    return text;
}

/* Tools of the top level belong to a system message at the front, made when there is none. */
static void test_top_level(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"{\"tools\":" TOOLS ",\"response_format\":{\"a\":1},\"messages\":[" SYSTEM("s") "]}",
         "[{\"role\":\"system\",\"content\":\"s\",\"tools\":" TOOLS
         ",\"response_format\":{\"a\":1}}]"},
        {"{\"tools\":" TOOLS ",\"messages\":[" MESSAGE("user", "u") "]}",
         "[{\"role\":\"system\",\"tools\":" TOOLS "}," MESSAGE("user", "u") "]"},
        {"{\"response_format\":{\"a\":1},\"messages\":[]}",
         "[{\"role\":\"system\",\"response_format\":{\"a\":1}}]"},
        {"{\"response_format\":{\"a\":1},\"messages\":[" MESSAGE("developer", "d") "]}",
         "[{\"role\":\"system\",\"response_format\":{\"a\":1}}," MESSAGE("developer", "d") "]"},
        {"{\"tools\":[],\"response_format\":null,\"messages\":[" MESSAGE("user", "u") "]}",
         "[" MESSAGE("user", "u") "]"},
        {"{\"tools\":null,\"model\":\"x\",\"messages\":[]}", "[]"},
    };
    for (size_t i = 0; i < LENGTH_OF(pairs); i++) {
        char *left = prompt_of("t", pairs[i][0]), *right = prompt_of("t", pairs[i][1]);
        assert_string_equal(left, right);
        assert_int_equal(strstr(left, "{\"name\": \"f\", \"n\": 1.5}\n") != NULL,
                         strstr(pairs[i][0], TOOLS) != NULL);
        assert_int_equal(strstr(left, "to reply:\n{\"a\": 1}") != NULL,
                         strstr(pairs[i][0], "\"a\":1") != NULL);
        free(left);
        free(right);
    }
    assert_encodes("", "[]", BOS);
    assert_encodes("tm", "[]", BOS);
}

static void test_modes(void **state)
{
    (void)state;
    static const char history[] = "[" SYSTEM("s") "," MESSAGE(
        "user", "u1") ",{\"role\":\"assistant\",\"reasoning_content\":"
                      "\"r1\",\"content\":\"a1\"}," MESSAGE(
                          "developer",
                          "d") ",{\"role\":\"assistant\","
                               "\"reasoning_content\":\"r2\",\"content\":\"a2\"}," MESSAGE(
                                   "user", "u2") "]";
    assert_encodes("", history, BOS "s" USER "u1" ASK "a1" EOS USER "d" ASK "a2" EOS USER "u2" ASK);
    assert_encodes("t", history, BOS "s" USER "u1" ASK "a1" EOS "a2" EOS USER "u2" ASK_THINK);
    assert_encodes("tk", history,
                   BOS "s" USER "u1" ASK_THINK "r1</think>a1" EOS USER "d" ASK_THINK
                       "r2</think>a2" EOS USER "u2" ASK_THINK);
    assert_encodes("mn", "[" MESSAGE("user", "u") "]", USER "u" ASK);
    char *prompt = prompt_of("tm", "[" MESSAGE("user", "u") "]");
    static const char head[] =
        BOS "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n";
    assert_memory_equal(prompt, head, sizeof head - 1);
    assert_contains(prompt, "is left unchecked.\n\n" USER "u" ASK_THINK);
    free(prompt);
}

/* Results go by the order of the calls; texts stay; unknown calls come first. */
static void test_tool_results(void **state)
{
    (void)state;
#define CALL(id)         "{\"id\":\"" id "\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}"
#define RESULT(id, text) "{\"role\":\"tool\",\"tool_call_id\":\"" id "\",\"content\":\"" text "\"}"
    static const char
        json[] = "[{\"role\":\"assistant\",\"tool_calls\":[" CALL("a") "," CALL("b") "," CALL("c") "]}," RESULT(
            "c",
            "3") "," MESSAGE("user",
                             "text") "," RESULT("b",
                                                "2") "," RESULT("zz",
                                                                "?") "," RESULT("a",
                                                                                "1") "," MESSAGE("u"
                                                                                                 "s"
                                                                                                 "e"
                                                                                                 "r",
                                                                                                 "e"
                                                                                                 "n"
                                                                                                 "d") "]";
    char *prompt = prompt_of("", json);
    static const char tail[] =
        USER "<tool_result>?</tool_result>\n\ntext\n\n<tool_result>1</tool_result>\n\n"
             "<tool_result>2</tool_result>\n\n<tool_result>3</tool_result>\n\nend" ASK;
    assert_string_equal(strstr(prompt, USER), tail);
    free(prompt);
    /* ids of earlier calls are no longer known */
    prompt =
        prompt_of("", "[{\"role\":\"assistant\",\"tool_calls\":[" CALL("a") "," CALL(
                          "b") "]},"
                               "{\"role\":\"assistant\",\"tool_calls\":[" CALL("c") "]}," RESULT(
                                   "b", "2") "," RESULT("a", "1") "," RESULT("c", "3") "]");
    assert_contains(prompt, USER "<tool_result>2</tool_result>\n\n<tool_result>1</tool_result>\n\n"
                                 "<tool_result>3</tool_result>");
    free(prompt);
    /* a call may have its id in the function */
#define CALL_INSIDE(id) "{\"function\":{\"id\":\"" id "\",\"name\":\"f\",\"arguments\":\"{}\"}}"
    prompt =
        prompt_of("", "[{\"role\":\"assistant\",\"tool_calls\":[" CALL_INSIDE("a") "," CALL_INSIDE(
                          "b") "]}," RESULT("b", "2") "," RESULT("a", "1") "]");
    assert_contains(prompt, "<tool_result>1</tool_result>\n\n<tool_result>2</tool_result>");
    free(prompt);
}

static void test_parts(void **state)
{
    (void)state;
    assert_encodes("n",
                   "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                   "{\"type\":\"image_url\"},{\"type\":\"text\",\"text\":\"b\"}]}]",
                   USER "a\n\n[Unsupported image_url]\n\nb" ASK);
    assert_encodes("n", "[{\"role\":\"user\",\"content\":[]},{\"role\":\"user\"}]",
                   USER "\n\n" ASK);
}

/* Python's spelling of numbers and strings. */
static void test_json_spelling(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"1e2", "100.0"},
        {"-0.0", "-0.0"},
        {"-0", "0"},
        {"1E16", "1e+16"},
        {"9999999999999998.0", "9999999999999998.0"},
        {"0.0001", "0.0001"},
        {"0.00001", "1e-05"},
        {"1.5e-7", "1.5e-07"},
        {"1e100", "1e+100"},
        {"123.456", "123.456"},
        {"0.1", "0.1"},
        {"5e-324", "5e-324"},
        {"1.7976931348623157e308", "1.7976931348623157e+308"},
        {"9223372036854775807", "9223372036854775807"},
        {"[ ]", "[]"},
        {"{}", "{}"},
        {"[1,[2],{\"b\":{\"a\":null}},true,false]",
         "[1, [2], {\"b\": {\"a\": null}}, true, false]"},
        {"\"\\u0001\\u001F\\b\\f\\n\\r\\t\\/\\\\\\\"\\u007f\\u2028\\uD83D\\ude00\"",
         "\"\\u0001\\u001f\\b\\f\\n\\r\\t/\\\\\\\"\x7f\u2028😀\""},
    };
    for (size_t i = 0; i < LENGTH_OF(pairs); i++) {
        char json[512], expected[512];
        (void)snprintf(json, sizeof json, "[{\"role\":\"system\",\"response_format\":{\"x\":%s}}]",
                       pairs[i][0]);
        (void)snprintf(expected, sizeof expected,
                       "\n\n## Response Format:\n\nYou MUST strictly adhere to the following "
                       "schema to reply:\n{\"x\": %s}",
                       pairs[i][1]);
        assert_encodes("n", json, expected);
    }
}

/* Text that is not JSON is one parameter; nesting at the parser's limit is written. */
static void test_arguments(void **state)
{
    (void)state;
#define ONE_CALL(arguments)                                                                        \
    "[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"        \
    "\"" arguments "\"}}]}]"
#define ONE_DSML(parameters)                                                                       \
    "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n" parameters                           \
    "\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>" EOS
    assert_encodes("n", ONE_CALL("{}"), ONE_DSML(""));
    assert_encodes("n", ONE_CALL("oops"),
                   ONE_DSML("<｜DSML｜parameter name=\"arguments\" string=\"true\">oops"
                            "</｜DSML｜parameter>"));
    assert_encodes("n", ONE_CALL("{\\\"a\\\":1,\\\"a\\\":\\\"<\\\"}"),
                   ONE_DSML("<｜DSML｜parameter name=\"a\" string=\"true\"><</｜DSML｜parameter>"));
    static const char nul[] = ONE_CALL("1\\u0000");
    static const char nul_text[] =
        ONE_DSML("<｜DSML｜parameter name=\"arguments\" string=\"true\">1\0</｜DSML｜parameter>");
    assert_prompt("n", nul, sizeof nul - 1, nul_text, sizeof nul_text - 1);
    char json[8192], *out = json;
    out += sprintf(out, "[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
                        "\"arguments\":\"{\\\"k\\\":");
    for (int i = 0; i < 2040; i++) *out++ = '[';
    for (int i = 0; i < 2040; i++) *out++ = ']';
    (void)sprintf(out, "}\"}}]}]");
    char *prompt = prompt_of("n", json);
    assert_contains(prompt, "string=\"false\">[[[[");
    free(prompt);
}

/* Refusals. */
static const struct {
    const char *json;
    const char *parts[2];
} refusals[] = {
    {"", {"line 1", "expected JSON"}},
    {"{", {"line 1, column 1", "expected JSON"}},
    {"[\"\xff\"]", {"byte 0xff", "expected JSON"}},
    {"{}", {"messages is not there"}},
    {"{\"messages\":5}", {"no array"}},
    {"[5]", {"messages[0] is 5", "an object"}},
    {"[{}]", {"messages[0].role is missing", "latest_reminder"}},
    {"[{\"role\":5}]", {"messages[0].role is 5"}},
    {"[" MESSAGE("user", "") "," MESSAGE("robot", "") "]", {"messages[1].role is 'robot'"}},
    {"[{\"role\":\"user\",\"content\":null}]", {"messages[0].content is null", "array of parts"}},
    {"[{\"role\":\"user\",\"content\":5}]", {"messages[0].content is 5"}},
    {"[{\"role\":\"tool\",\"content\":null}]", {"messages[0].content is null"}},
    {"[{\"role\":\"system\",\"content\":{}}]", {"messages[0].content is an object"}},
    {"[{\"role\":\"assistant\",\"content\":false}]", {"messages[0].content is false"}},
    {"[{\"role\":\"developer\"}]", {"messages[0].content is missing"}},
    {"[{\"role\":\"developer\",\"content\":\"\"}]", {"content is ''", "not empty"}},
    {"[{\"role\":\"developer\",\"content\":[]}]", {"content is an array", "not empty"}},
    {"[{\"role\":\"latest_reminder\"}]", {"messages[0].content is missing"}},
    {"[{\"role\":\"user\",\"content\":[5]}]", {"messages[0].content[0] is 5", "an object"}},
    {"[{\"role\":\"user\",\"content\":[{}]}]", {"messages[0].content[0].type is missing"}},
    {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]",
     {"messages[0].content[0].text is missing", "a string"}},
    {"[{\"role\":\"assistant\",\"reasoning_content\":[]}]",
     {"messages[0].reasoning_content is an array"}},
    {"[{\"role\":\"assistant\",\"wo_eos\":1}]", {"messages[0].wo_eos is 1", "a boolean"}},
    {"[{\"role\":\"assistant\",\"tool_calls\":{}}]", {"messages[0].tool_calls is an object"}},
    {"[{\"role\":\"assistant\",\"tool_calls\":[5]}]", {"messages[0].tool_calls[0] is 5"}},
    {"[{\"role\":\"assistant\",\"tool_calls\":[{}]}]", {"tool_calls[0].function is missing"}},
    {"[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":5}]}]", {"tool_calls[0].id is 5"}},
    {"[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"id\":5}}]}]",
     {"tool_calls[0].function.id is 5"}},
    {"[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}]",
     {"tool_calls[0].function.name is missing"}},
    {"[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}]",
     {"tool_calls[0].function.arguments is missing"}},
    {"[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{}}}]}]",
     {"function.arguments is an object", "a string"}},
    {ONE_CALL("[]"), {"messages[0].arguments of a tool call is '[]'", "a JSON object"}},
    {ONE_CALL("{\\\"a\\\":99999999999999999999}"), {"arguments of a tool call", "64 bits"}},
    {ONE_CALL("{\\\"a\\\":1e999}"), {"arguments of a tool call", "finite reals"}},
    {ONE_CALL("{\\\"a\\\\u0000\\\":1}"), {"arguments of a tool call", "no NUL in a key"}},
    {"[{\"role\":\"tool\",\"tool_call_id\":5}]", {"messages[0].tool_call_id is 5"}},
    {"[{\"role\":\"user\",\"task\":\"paint\"}]", {"messages[0].task is 'paint'", "read_url"}},
    {"[{\"role\":\"user\",\"task\":5}]", {"messages[0].task is 5"}},
    {"[{\"role\":\"user\",\"tools\":" TOOLS "}]",
     {"messages[0].tools is an array", "system and developer"}},
    {"[{\"role\":\"assistant\",\"response_format\":{\"a\":1}}]",
     {"messages[0].response_format is an object", "system and developer"}},
    {"[{\"role\":\"system\",\"tools\":5}]", {"messages[0].tools is 5", "an array"}},
    {"[{\"role\":\"system\",\"tools\":[5]}]", {"messages[0].tools[0] is 5"}},
    {"[{\"role\":\"system\",\"tools\":[{}]}]", {"messages[0].tools[0].function is missing"}},
    {"[{\"role\":\"system\",\"tools\":[{\"function\":{}}]}]",
     {"tools[0].function.name is missing"}},
    {"[{\"role\":\"system\",\"response_format\":5}]", {"messages[0].response_format is 5"}},
    {"{\"messages\":[],\"tools\":{}}", {"tools is an object", "an array"}},
    {"{\"messages\":[],\"response_format\":[]}", {"response_format is an array"}},
    {"{\"tools\":" TOOLS ",\"messages\":[{\"role\":\"system\",\"tools\":" TOOLS "}]}",
     {"messages[0].tools is an array", "top level"}},
    {"{\"response_format\":{\"a\":1},\"messages\":[{\"role\":\"system\",\"response_format\":"
     "{\"a\":1}}]}",
     {"messages[0].response_format is an object", "top level"}},
};

static void assert_refused(const char *json, size_t len_bytes, const char *const parts[2])
{
    dsv4_chat_options options = options_of("t");
    dsv4_error error = {0};
    char *text = NULL;
    size_t text_bytes = 1;
    if (dsv4_chat_encode(json, len_bytes, &options, &text, &text_bytes, &error) !=
        DSV4_ERROR_BAD_FILE) {
        fail_msg("accepted: %s", json);
    }
    assert_null(text);
    assert_int_equal(text_bytes, 0);
    assert_contains(error.text, "expected");
    assert_contains(error.text, parts[0]);
    assert_contains(error.text, parts[1]);
}

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH_OF(refusals); i++) {
        assert_refused(refusals[i].json, strlen(refusals[i].json), refusals[i].parts);
    }
    assert_refused("[]\0", 3, (const char *const[2]){"byte 2 is NUL"});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_release_fixtures), cmocka_unit_test(test_cases),
        cmocka_unit_test(test_top_level),        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_tool_results),     cmocka_unit_test(test_parts),
        cmocka_unit_test(test_json_spelling),    cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
