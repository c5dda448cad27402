/*
 * dsml.c - what a model's turn says: reasoning, content, tool calls (specification 7.3).
 *
 * Place: text. The grammar of a block of calls, after a blank line or at the start of the content:
 *
 *     block     = <tool_calls> invoke* </tool_calls>
 *     invoke    = <invoke name="NAME"> parameter* </invoke>
 *     parameter = <parameter name="KEY" string="true|false">VALUE</parameter>
 *
 * with the DSML token after each "<" or "</", and blanks between tags. Forgiven are a missing
 * </tool_calls> after a complete call, a missing </invoke> before the next tag, and anything after
 * the block. All else makes the block malformed, above all what a limit on tokens may have cut: a
 * value or a list of parameters that is not known to be whole. Every position is passed over a
 * fixed number of times.
 */
#include "text/dsml.h"

#include "base/checked.h"
#include "base/error.h"
#include "text/chat_parts.h"
#include "text/json_dump.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

#define OPEN  "<" DSV4_CHAT_DSML
#define CLOSE "</" DSV4_CHAT_DSML

typedef struct span {
    const char *begin, *end;
} span;

typedef struct parser {
    const char *pos, *end; /* what is left of the turn */
    dsv4_turn *turn;
    size_t calls_capacity;
    span *keys; /* [n_keys] of the call being read */
    size_t n_keys, keys_capacity;
    dsv4_text_buffer arguments;
    bool has_memory;
} parser;

/* Text. */

/* Where `what` first stands in [begin, end); end when it does not. */
static const char *find(const char *begin, const char *end, const char *what)
{
    size_t len_bytes = strlen(what);
    while ((size_t)(end - begin) >= len_bytes) {
        begin = memchr(begin, what[0], (size_t)(end - begin) - len_bytes + 1);
        if (begin == NULL) return end;
        if (memcmp(begin, what, len_bytes) == 0) return begin;
        begin++;
    }
    return end;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static const char *skip_blanks(const char *pos, const char *end)
{
    while (pos < end && is_blank(*pos)) pos++;
    return pos;
}

static bool accept(parser *p, const char *what)
{
    size_t len_bytes = strlen(what);
    if ((size_t)(p->end - p->pos) < len_bytes || memcmp(p->pos, what, len_bytes) != 0) return false;
    p->pos += len_bytes;
    return true;
}

/* `what`, blanks and ">", after blanks; else the position stays. */
static bool accept_tag(parser *p, const char *what)
{
    const char *start = p->pos;
    p->pos = skip_blanks(p->pos, p->end);
    if (accept(p, what)) {
        p->pos = skip_blanks(p->pos, p->end);
        if (accept(p, ">")) return true;
    }
    p->pos = start;
    return false;
}

/* `what`, a blank and blanks, `name="`, after blanks; else the position stays. */
static bool accept_named_tag(parser *p, const char *what)
{
    const char *start = p->pos;
    p->pos = skip_blanks(p->pos, p->end);
    if (accept(p, what) && p->pos < p->end && is_blank(*p->pos)) {
        p->pos = skip_blanks(p->pos, p->end);
        if (accept(p, "name=\"")) return true;
    }
    p->pos = start;
    return false;
}

/* A C string of the span; NUL, which would end it, becomes U+FFFD. NULL when there is no memory. */
static char *copy_text(parser *p, const char *begin, const char *end)
{
    dsv4_text_buffer buffer = {0};
    for (const char *nul = NULL; (nul = memchr(begin, '\0', (size_t)(end - begin))) != NULL;) {
        dsv4_text_buffer_append(&buffer, begin, (size_t)(nul - begin));
        dsv4_text_buffer_append_string(&buffer, "\xef\xbf\xbd");
        begin = nul + 1;
    }
    dsv4_text_buffer_append(&buffer, begin, (size_t)(end - begin));
    char *text = dsv4_text_buffer_take(&buffer, NULL);
    if (text == NULL) p->has_memory = false;
    return text;
}

/*
 * A name up to its closing quote: not empty, UTF-8, no control characters. The encoder escapes
 * none.
 */
static bool read_quoted(parser *p, span *name)
{
    name->begin = p->pos;
    while (p->pos < p->end && *p->pos != '"') {
        if ((unsigned char)*p->pos < 0x20 || *p->pos == 0x7f) return false;
        p->pos++;
    }
    name->end = p->pos;
    size_t len_bytes = (size_t)(name->end - name->begin);
    return len_bytes > 0 && dsv4_utf8_valid_bytes(name->begin, len_bytes) == len_bytes &&
           accept(p, "\"");
}

/* Parameters. */

/* The rest of `name="KEY" string="true|false">` after its first quote. */
static bool read_key(parser *p, span *key, bool *is_string)
{
    if (!read_quoted(p, key)) return false;
    p->pos = skip_blanks(p->pos, p->end);
    *is_string = accept(p, "string=\"true\"");
    if (!*is_string && !accept(p, "string=\"false\"")) return false;
    p->pos = skip_blanks(p->pos, p->end);
    return accept(p, ">");
}

/* No tag of ours inside: there would be two ways to read it. */
static bool is_value(span value)
{
    static const char *const tags[] = {OPEN "parameter", OPEN "invoke", OPEN "tool_calls",
                                       CLOSE "invoke", CLOSE "tool_calls"};
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
        if (find(value.begin, value.end, tags[i]) != value.end) return false;
    }
    return true;
}

/*
 * Big integers pass: they are checked as reals and copied as text. Jansson passes over some NULs.
 */
static bool is_json(parser *p, span value)
{
    json_error_t reason;
    size_t len_bytes = (size_t)(value.end - value.begin);
    if (memchr(value.begin, '\0', len_bytes) != NULL) return false;
    json_t *json = json_loadb(value.begin, len_bytes,
                              JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &reason);
    if (json == NULL && json_error_code(&reason) == json_error_out_of_memory) {
        p->has_memory = false;
    }
    json_decref(json);
    return json != NULL;
}

static bool note_key(parser *p, span key)
{
    if (p->n_keys == p->keys_capacity) {
        size_t capacity = p->keys_capacity == 0 ? 16 : 2 * p->keys_capacity, len_bytes = 0;
        span *grown = dsv4_checked_mul(capacity, sizeof *grown, &len_bytes)
                          ? realloc(p->keys, len_bytes)
                          : NULL;
        if (grown == NULL) {
            p->has_memory = false;
            return false;
        }
        p->keys = grown;
        p->keys_capacity = capacity;
    }
    p->keys[p->n_keys++] = key;
    return true;
}

/* The rest of a parameter after `name="`, to the arguments. */
static bool read_parameter(parser *p)
{
    span key, value;
    bool is_string = false;
    if (!read_key(p, &key, &is_string)) return false;
    value.begin = p->pos;
    p->pos = value.end = find(p->pos, p->end, CLOSE "parameter");
    if (!accept_tag(p, CLOSE "parameter") || !is_value(value) || !note_key(p, key)) return false;
    if (p->n_keys > 1) dsv4_text_buffer_append_string(&p->arguments, ", ");
    dsv4_json_append_quoted(&p->arguments, key.begin, (size_t)(key.end - key.begin));
    dsv4_text_buffer_append_string(&p->arguments, ": ");
    size_t len_bytes = (size_t)(value.end - value.begin);
    if (is_string) {
        dsv4_json_append_quoted(&p->arguments, value.begin, len_bytes);
        return true;
    }
    dsv4_text_buffer_append(&p->arguments, value.begin, len_bytes);
    return is_json(p, value);
}

static int compare_spans(const void *a, const void *b)
{
    const span *left = a, *right = b;
    size_t n_left = (size_t)(left->end - left->begin),
           n_right = (size_t)(right->end - right->begin);
    if (n_left != n_right) return n_left < n_right ? -1 : 1;
    return memcmp(left->begin, right->begin, n_left);
}

static bool has_duplicate_key(parser *p)
{
    if (p->n_keys > 1) qsort(p->keys, p->n_keys, sizeof *p->keys, compare_spans);
    for (size_t i = 1; i < p->n_keys; i++) {
        if (compare_spans(&p->keys[i - 1], &p->keys[i]) == 0) return true;
    }
    return false;
}

/* Calls. */

static bool add_call(parser *p, span name)
{
    dsv4_turn *turn = p->turn;
    size_t n_calls = (size_t)turn->n_calls;
    if (n_calls == p->calls_capacity) {
        size_t capacity = n_calls == 0 ? 4 : 2 * n_calls, len_bytes = 0;
        dsv4_tool_call *grown = dsv4_checked_mul(capacity, sizeof *grown, &len_bytes)
                                    ? realloc(turn->calls, len_bytes)
                                    : NULL;
        if (grown == NULL) {
            p->has_memory = false;
            return false;
        }
        turn->calls = grown;
        p->calls_capacity = capacity;
    }
    dsv4_tool_call *call = &turn->calls[turn->n_calls++];
    call->name = copy_text(p, name.begin, name.end);
    call->arguments_json = dsv4_text_buffer_take(&p->arguments, NULL);
    if (call->arguments_json == NULL) p->has_memory = false;
    return p->has_memory;
}

/* The rest of an invoke after `name="`. */
static bool read_invoke(parser *p)
{
    span name;
    p->n_keys = 0;
    dsv4_text_buffer_append_string(&p->arguments, "{");
    if (!read_quoted(p, &name) || !accept_tag(p, "")) return false;
    while (accept_named_tag(p, OPEN "parameter")) {
        if (!read_parameter(p)) return false;
    }
    if (!accept_tag(p, CLOSE "invoke")) {
        parser ahead = *p;
        if (!accept_named_tag(&ahead, OPEN "invoke") && !accept_tag(&ahead, CLOSE "tool_calls")) {
            return false;
        }
    }
    dsv4_text_buffer_append_string(&p->arguments, "}");
    return !has_duplicate_key(p) && add_call(p, name);
}

/* From after the block's first tag. */
static bool read_block(parser *p)
{
    while (accept_named_tag(p, OPEN "invoke")) {
        if (!read_invoke(p)) return false;
    }
    if (accept_tag(p, CLOSE "tool_calls")) return true;
    /* no end tag: a call that cannot be read must not vanish among what is passed over */
    return p->turn->n_calls > 0 && find(p->pos, p->end, OPEN "invoke") == p->end;
}

static void free_calls(dsv4_turn *turn)
{
    for (int64_t i = 0; i < turn->n_calls; i++) {
        free(turn->calls[i].name);
        free(turn->calls[i].arguments_json);
    }
    free(turn->calls);
    turn->calls = NULL;
    turn->n_calls = 0;
}

/*
 * The first tag of a block in [begin, end): after nothing but blanks, or after a blank line; end
 * when there is none. *content_end is where the content before it ends.
 */
static const char *find_block(const char *begin, const char *end, const char **content_end)
{
    static const char tag[] = OPEN "tool_calls";
    const char *first = skip_blanks(begin, end);
    for (const char *pos = begin; (pos = find(pos, end, tag)) != end; pos++) {
        const char *after = pos + sizeof tag - 1;
        bool is_tag = after == end || *after == '>' || is_blank(*after);
        bool is_first = pos == first;
        bool has_blank_line = pos - begin >= 2 && pos[-1] == '\n' && pos[-2] == '\n';
        if (!is_tag || (!is_first && !has_blank_line)) continue;
        *content_end = is_first ? begin : pos - 2;
        return pos;
    }
    *content_end = end;
    return end;
}

static void read_content(parser *p)
{
    const char *begin = p->pos, *content_end = NULL;
    p->pos = find_block(begin, p->end, &content_end);
    if (p->pos != p->end && !(accept_tag(p, OPEN "tool_calls") && read_block(p))) {
        free_calls(p->turn);
        p->turn->malformed = true;
        content_end = p->end;
    }
    p->turn->content = copy_text(p, begin, content_end);
}

/* Reasoning that never ends is all there is; a block of calls in it is not one to run. */
static void read_turn(parser *p, bool thinking)
{
    const char *begin = p->pos, *reasoning_end = p->pos, *ignored = NULL;
    if (thinking) {
        reasoning_end = find(p->pos, p->end, DSV4_CHAT_END_THINK);
        p->pos = reasoning_end;
        if (!accept(p, DSV4_CHAT_END_THINK)) {
            p->turn->malformed = find_block(begin, p->end, &ignored) != p->end;
        }
    }
    p->turn->reasoning = copy_text(p, begin, reasoning_end);
    read_content(p);
}

dsv4_status dsv4_turn_parse(const char *text, size_t len_bytes, bool thinking, dsv4_turn *turn,
                            dsv4_error *error)
{
    *turn = (dsv4_turn){0};
    if (len_bytes == 0) text = "";
    parser p = {.pos = text, .turn = turn, .has_memory = true};
    p.end = find(text, text + len_bytes, DSV4_CHAT_EOS);
    read_turn(&p, thinking);
    free(p.keys);
    dsv4_text_buffer_free(&p.arguments);
    if (p.has_memory) return DSV4_OK;
    dsv4_turn_free(turn);
    return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "turn: out of memory");
}

void dsv4_turn_free(dsv4_turn *turn)
{
    free(turn->reasoning);
    free(turn->content);
    free_calls(turn);
    *turn = (dsv4_turn){0};
}
