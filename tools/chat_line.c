/*
 * chat_line.c - lines of a talk.
 *
 * Place: program. Invariant: editor and history are both there or both not.
 */
#include "chat_line.h"

#include "base/error.h"

#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HISTORY_LINES = 1000 };

struct dsv4_chat_lines {
    const char *prompt;
    EditLine *editor; /* NULL: plain lines */
    History *history;
    char *line; /* the last one */
    size_t room_bytes;
};

static char *get_prompt(EditLine *editor)
{
    static char none[] = "";
    dsv4_chat_lines *lines = NULL;
    if (el_get(editor, EL_CLIENTDATA, &lines) != 0 || lines == NULL) return none;
    return (char *)lines->prompt; /* libedit does not write to it */
}

static bool open_editor(dsv4_chat_lines *lines)
{
    HistEvent event;
    (void)setlocale(LC_CTYPE, "");
    lines->editor = el_init("dsv4", stdin, stdout, stderr);
    lines->history = history_init();
    if (lines->editor == NULL || lines->history == NULL) return false;
    (void)history(lines->history, &event, H_SETSIZE, HISTORY_LINES);
    (void)history(lines->history, &event, H_SETUNIQUE, 1);
    (void)el_set(lines->editor, EL_CLIENTDATA, lines);
    (void)el_set(lines->editor, EL_PROMPT, get_prompt);
    (void)el_set(lines->editor, EL_EDITOR, "emacs");
    (void)el_set(lines->editor, EL_SIGNAL, 1);
    (void)el_set(lines->editor, EL_HIST, history, lines->history);
    (void)el_source(lines->editor, NULL);
    return true;
}

dsv4_status dsv4_chat_lines_open(bool edits, const char *prompt, dsv4_chat_lines **lines,
                                 dsv4_error *error)
{
    dsv4_chat_lines *made = calloc(1, sizeof *made);
    if (made != NULL) made->prompt = prompt;
    if (made == NULL || (edits && !open_editor(made))) {
        dsv4_chat_lines_close(made);
        return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for reading lines");
    }
    *lines = made;
    return DSV4_OK;
}

/* A copy of the editor's line, which it overwrites. */
static bool edit_line(dsv4_chat_lines *lines)
{
    int len_bytes;
    HistEvent event;
    const char *line = el_gets(lines->editor, &len_bytes);
    if (line == NULL || len_bytes <= 0) return false;
    if (line[0] != '\n') (void)history(lines->history, &event, H_ENTER, line);
    free(lines->line);
    lines->line = strdup(line);
    return lines->line != NULL;
}

const char *dsv4_chat_lines_next(dsv4_chat_lines *lines)
{
    if (lines->editor != NULL) {
        if (!edit_line(lines)) return NULL;
    } else if (getline(&lines->line, &lines->room_bytes, stdin) < 0) {
        return NULL;
    }
    lines->line[strcspn(lines->line, "\r\n")] = '\0';
    return lines->line;
}

void dsv4_chat_lines_close(dsv4_chat_lines *lines)
{
    if (lines == NULL) return;
    if (lines->editor != NULL) el_end(lines->editor);
    if (lines->history != NULL) history_end(lines->history);
    free(lines->line);
    free(lines);
}
