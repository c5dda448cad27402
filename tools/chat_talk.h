/*
 * chat_talk.h - a talk with a model: messages so far, and the sessions that have them cached.
 *
 * Place: program. Every answer begins from the whole talk as prompt text; what a session already holds
 * of it is not computed again. Two sessions are kept, one behind the last question and one behind the last
 * answer, since a release may write old answers without their reasoning. While a question is computed, the
 * first one waits behind what was before it.
 */
#ifndef DSV4_TOOLS_CHAT_TALK_H
#define DSV4_TOOLS_CHAT_TALK_H

#include "dsv4/dsv4.h"

#include <stdbool.h>

#include <jansson.h>

typedef struct dsv4_chat_talk {
    dsv4_model *model;
    json_t *messages;                  /* a list */
    dsv4_session *asked, *answered;    /* NULL before the first answer */
    int64_t max_tokens, rewind_tokens; /* of a talk; that cost nothing */
    bool (*is_stopped)(void); /* NULL, or asked now and then while a question is computed */
} dsv4_chat_talk;

/* model must have two sessions free and outlive the talk. Errors: OUT_OF_MEMORY. */
dsv4_status dsv4_chat_talk_open(dsv4_model *model, int64_t max_tokens, int64_t rewind_tokens,
                                dsv4_chat_talk *talk, dsv4_error *error);

/* Accepts zeroed memory. */
void dsv4_chat_talk_close(dsv4_chat_talk *talk);

/* Forgets everything. */
void dsv4_chat_talk_reset(dsv4_chat_talk *talk);

/*
 * Asks a question and lets the model answer through on_token; both become part of the talk on success
 * and are forgotten otherwise. An answer that on_token ends stays as far as it came; a question that
 * is_stopped ends before its answer begins is forgotten, too, which is no error.
 *   max_new  most tokens of the answer; what fits, when that is less
 * Errors: those of the library; OUT_OF_MEMORY also when the talk has become too long.
 */
dsv4_status dsv4_chat_talk_ask(dsv4_chat_talk *talk, const char *question, bool thinking,
                               const dsv4_sampling *sampling, int64_t max_new,
                               dsv4_on_token *on_token, void *context, dsv4_error *error);

#endif
