/*
 * chat.h - the prompt grammar of the V4 release: messages in, prompt text out (specification 7.3).
 *
 * Place: text. Messages are JSON in the shape of the OpenAI chat API, as the release's own encoder takes
 * them. The result is the exact text that its encoder writes, special tokens under their strings.
 */
#ifndef DSV4_TEXT_CHAT_H
#define DSV4_TEXT_CHAT_H

#include <stdbool.h>

#include "dsv4/base.h"

typedef struct dsv4_chat_options {
    bool thinking;           /* end the prompt with <think> rather than </think> */
    bool max_effort;         /* the "max" reasoning-effort prefix; thinking only */
    bool drop_old_reasoning; /* as the release does when no message carries tools; default true */
    bool add_bos;            /* begin with the begin-of-sentence token; default true */
} dsv4_chat_options;

void dsv4_chat_options_default(dsv4_chat_options *options);

/*
 * Encodes {"messages": [...], "tools": [...]?, "response_format": ...?} or a bare list of messages.
 * Roles system, user, developer, assistant, tool, latest_reminder; tools and response_format may also
 * stand in a message, as in the release's fixtures. Broken JSON, an unknown role, a missing or mistyped
 * field is BAD_FILE naming message, field and expectation.
 *   *text  malloc'ed, NUL-terminated; the caller frees it
 */
dsv4_status dsv4_chat_encode(const char *json, size_t len_bytes, const dsv4_chat_options *options,
                             char **text, size_t *text_len_bytes, dsv4_error *error);

#endif
