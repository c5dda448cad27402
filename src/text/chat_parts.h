/*
 * chat_parts.h - what the files of the chat encoder share.
 *
 * Place: text. chat_check.c says whether messages have the shape that the encoder needs,
 * chat_tools.c writes tools, tool calls and response formats, chat.c merges messages into turns and
 * writes those.
 */
#ifndef DSV4_TEXT_CHAT_PARTS_H
#define DSV4_TEXT_CHAT_PARTS_H

#include <jansson.h>
#include <stdbool.h>

#include "dsv4/base.h"
#include "text/text_buffer.h"

/* The special tokens of the prompt, under their strings. */
#define DSV4_CHAT_BOS       "<｜begin▁of▁sentence｜>"
#define DSV4_CHAT_EOS       "<｜end▁of▁sentence｜>"
#define DSV4_CHAT_USER      "<｜User｜>"
#define DSV4_CHAT_ASSISTANT "<｜Assistant｜>"
#define DSV4_CHAT_REMINDER  "<｜latest_reminder｜>"
#define DSV4_CHAT_THINK     "<think>"
#define DSV4_CHAT_END_THINK "</think>"
#define DSV4_CHAT_DSML      "｜DSML｜"

enum {
    DSV4_CHAT_ROLE_SYSTEM,
    DSV4_CHAT_ROLE_USER,
    DSV4_CHAT_ROLE_DEVELOPER,
    DSV4_CHAT_ROLE_ASSISTANT,
    DSV4_CHAT_ROLE_TOOL,
    DSV4_CHAT_ROLE_LATEST_REMINDER,
    DSV4_CHAT_N_ROLES
};

/*
 * BAD_FILE with "messages[<index>].<what> is <value>, expected <expectation>"; a NULL value is
 * missing.
 */
dsv4_status dsv4_chat_refuse(size_t index, const char *what, const json_t *value,
                             const char *expectation, dsv4_error *error);

/*
 * Checks message `index` and sets *role to one of those above. After it the message's fields have
 * the types that chat.c and chat_tools.c rely on, except that arguments of tool calls are strings
 * of unknown content.
 */
dsv4_status dsv4_chat_check_message(const json_t *message, size_t index, int32_t *role,
                                    dsv4_error *error);

/* Checks tools and response format of the top level; NULL and null are none. */
dsv4_status dsv4_chat_check_top(const json_t *tools, const json_t *format, dsv4_error *error);

/*
 * Whether Python takes a checked list of tools or a response format for true: present and not
 * empty.
 */
bool dsv4_chat_is_given(const json_t *value);

/* The task's token, NULL when there is no such task. */
const char *dsv4_chat_task_token(const char *task);

/* "\n\n" and the block, when there is something given. */
void dsv4_chat_append_tools(dsv4_text_buffer *prompt, const json_t *tools);
void dsv4_chat_append_format(dsv4_text_buffer *prompt, const json_t *format);

/*
 * "\n\n" and the DSML block of message `index`'s tool calls. BAD_FILE for arguments that are no
 * object.
 */
dsv4_status dsv4_chat_append_calls(dsv4_text_buffer *prompt, const json_t *calls, size_t index,
                                   dsv4_error *error);

/*
 * A content: a string as it is, an array as its texts with blank lines between; otherwise nothing.
 */
void dsv4_chat_append_content(dsv4_text_buffer *prompt, const json_t *content);

#endif
