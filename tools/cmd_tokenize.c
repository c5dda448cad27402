/*
 * cmd_tokenize.c - `dsv4 tokenize`: shows the tokens of a text.
 *
 * Place: program. Uses the tokenizer alone, so a directory needs no weights.
 */
#include "commands.h"

#include "api/api_model.h"
#include "base/error.h"
#include "text/utf8.h"
#include "text_stream.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* In quotes, with what is no printable character, or no character at all, as \xNN. */
static void print_quoted(const char *bytes, size_t len_bytes)
{
    size_t at = 0;
    putchar('"');
    while (at < len_bytes) {
        unsigned char byte = (unsigned char)bytes[at];
        size_t n = dsv4_utf8_character_bytes(bytes + at, len_bytes - at);
        if (byte == '\n') {
            fputs("\\n", stdout);
        } else if (byte == '"' || byte == '\\') {
            printf("\\%c", byte);
        } else if (n == 0 || byte < 0x20 || byte == 0x7f) {
            printf("\\x%02x", byte);
        } else {
            (void)fwrite(bytes + at, 1, n, stdout);
        }
        at += n > 0 ? n : 1;
    }
    fputs("\"\n", stdout);
}

static void print_tokens(const dsv4_options *options, const dsv4_tokenizer *tokenizer,
                         const int32_t *ids, size_t n_ids)
{
    for (size_t i = 0; i < n_ids; i++) {
        if (options->given[DSV4_OPTION_IDS]) {
            printf("%s%" PRId32, i > 0 ? " " : "", ids[i]);
            continue;
        }
        size_t len_bytes;
        const char *bytes = dsv4_tokenizer_token(tokenizer, ids[i], &len_bytes);
        printf("%" PRId32 "\t", ids[i]);
        print_quoted(bytes, len_bytes);
    }
    if (options->given[DSV4_OPTION_IDS]) printf("\n");
}

static dsv4_status tokenize(const dsv4_options *options, const dsv4_tokenizer *tokenizer,
                            const char *text, size_t len_bytes, dsv4_error *error)
{
    size_t n_ids;
    DSV4_TRY(dsv4_tokenizer_encode(tokenizer, text, len_bytes, true, NULL, 0, &n_ids, error));
    int32_t *ids = calloc(n_ids + 1, sizeof *ids);
    if (ids == NULL) {
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for %zu tokens", n_ids);
    }
    dsv4_status status =
        dsv4_tokenizer_encode(tokenizer, text, len_bytes, true, ids, n_ids, &n_ids, error);
    if (status == DSV4_OK) print_tokens(options, tokenizer, ids, n_ids);
    free(ids);
    return status;
}

static dsv4_status open_tokenizer(const char *dir, dsv4_tokenizer **tokenizer, dsv4_error *error)
{
    dsv4_status status = dsv4_model_read_tokenizer(dir, tokenizer, error);
    if (status == DSV4_ERROR_UNSUPPORTED) status = error->status = DSV4_ERROR_BAD_FILE;
    if (status == DSV4_OK && *tokenizer == NULL) {
        status = dsv4_error_set(error, DSV4_ERROR_IO, "%.300s: has no tokenizer.json", dir);
    }
    return status;
}

int dsv4_cmd_tokenize(const dsv4_options *options)
{
    dsv4_error error;
    dsv4_tokenizer *tokenizer = NULL;
    char *owned = NULL;
    const char *text = options->texts[DSV4_OPTION_PROMPT];
    size_t len_bytes = text != NULL ? strlen(text) : 0;
    dsv4_status status = open_tokenizer(options->texts[DSV4_OPTION_MODEL], &tokenizer, &error);
    if (status == DSV4_OK && text == NULL) {
        status = dsv4_text_read(stdin, &owned, &len_bytes, &error);
        text = owned;
    }
    if (status == DSV4_OK) status = tokenize(options, tokenizer, text, len_bytes, &error);
    free(owned);
    dsv4_tokenizer_close(tokenizer);
    return status == DSV4_OK ? DSV4_EXIT_OK : dsv4_command_fail(options, &error);
}
