/*
 * fuzz_chat.c - libFuzzer target of the chat encoder.
 *
 * Input: one byte of options, then the messages as JSON. A refusal must leave a text, a prompt must
 * be UTF-8 and begin as its options say, and encoding must be repeatable.
 */
#include "text/chat.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

#define BOS "<｜begin▁of▁sentence｜>"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

static void require(int condition)
{
    if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes)
{
    if (len_bytes == 0) return 0;
    const char *json = (const char *)bytes + 1;
    dsv4_chat_options options = {.thinking = bytes[0] & 1,
                                 .max_effort = bytes[0] >> 1 & 1,
                                 .drop_old_reasoning = bytes[0] >> 2 & 1,
                                 .add_bos = bytes[0] >> 3 & 1};
    dsv4_error error = {0};
    char *text = NULL, *again = NULL;
    size_t text_bytes = 0, again_bytes = 0;
    dsv4_status status =
        dsv4_chat_encode(json, len_bytes - 1, &options, &text, &text_bytes, &error);
    if (status != DSV4_OK) {
        require(status == DSV4_ERROR_BAD_FILE && text == NULL);
        require(strstr(error.text, "expected") != NULL);
        return 0;
    }
    require(dsv4_utf8_valid_bytes(text, text_bytes) == text_bytes && text[text_bytes] == '\0');
    require(!options.add_bos || strncmp(text, BOS, strlen(BOS)) == 0);
    require(dsv4_chat_encode(json, len_bytes - 1, &options, &again, &again_bytes, NULL) == DSV4_OK);
    require(again_bytes == text_bytes && memcmp(text, again, text_bytes) == 0);
    free(text);
    free(again);
    return 0;
}
