/*
 * chat_line.h - lines of a talk: edited and recalled on a terminal, plain otherwise.
 *
 * Place: program. The only user of libedit.
 */
#ifndef DSV4_TOOLS_CHAT_LINE_H
#define DSV4_TOOLS_CHAT_LINE_H

#include "dsv4/base.h"

#include <stdbool.h>

typedef struct dsv4_chat_lines dsv4_chat_lines;

/*
 * Lines of standard input; `edits` when it and standard output are a terminal. prompt stays the
 * caller's. Errors: OUT_OF_MEMORY.
 */
dsv4_status dsv4_chat_lines_open(bool edits, const char *prompt, dsv4_chat_lines **lines,
                                 dsv4_error *error);

/*
 * The next line without its end, valid until the next call; *line is NULL after the last. SIGINT, if caught
 * (interrupt.h), drops a line that is being edited: an empty one takes its place. A NUL byte becomes one
 * that is no UTF-8. Errors: IO, OUT_OF_MEMORY.
 */
dsv4_status dsv4_chat_lines_next(dsv4_chat_lines *lines, const char **line, dsv4_error *error);

/* Accepts NULL. */
void dsv4_chat_lines_close(dsv4_chat_lines *lines);

#endif
