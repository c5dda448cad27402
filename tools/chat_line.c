/*
 * chat_line.c - lines of a talk.
 *
 * Place: program. Invariant: editor and history are both there or both not.
 */
#include "chat_line.h"

#include "base/error.h"
#include "interrupt.h"

#include <errno.h>
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

static dsv4_status fail_memory(dsv4_error *error)
{
    return dsv4_error_set(error, DSV4_ERROR_OUT_OF_MEMORY, "no memory for reading lines");
}

static char *get_prompt(EditLine *editor)
{
    static char none[] = "";
    dsv4_chat_lines *lines = NULL;
    if (el_get(editor, EL_CLIENTDATA, &lines) != 0 || lines == NULL) return none;
    return (char *)lines->prompt; /* libedit does not write to it */
}

/* Models talk UTF-8; in a locale without it the editor would drop all but ASCII. */
static void choose_locale(void)
{
    if (setlocale(LC_CTYPE, "") == NULL || MB_CUR_MAX == 1) (void)setlocale(LC_CTYPE, "C.UTF-8");
}

static bool open_editor(dsv4_chat_lines *lines)
{
    HistEvent event;
    choose_locale();
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
        return fail_memory(error);
    }
    *lines = made;
    return DSV4_OK;
}

/* A copy of the editor's line, which it overwrites; *is_last where there is none. */
static dsv4_status edit_line(dsv4_chat_lines *lines, bool *is_last, dsv4_error *error)
{
    int len_bytes = 0;
    HistEvent event;
    dsv4_interrupt_clear();
    const char *line = el_gets(lines->editor, &len_bytes);
    bool is_dropped = dsv4_interrupt_came();
    *is_last = !is_dropped && (line == NULL || len_bytes <= 0);
    if (is_dropped || *is_last) {
        (void)fputs("\n", stdout);
        line = "";
    } else if (line[0] != '\n') {
        (void)history(lines->history, &event, H_ENTER, line);
    }
    free(lines->line);
    lines->line = strdup(line);
    return lines->line != NULL ? DSV4_OK : fail_memory(error);
}

static dsv4_status read_line(dsv4_chat_lines *lines, bool *is_last, dsv4_error *error)
{
    errno = 0;
    ssize_t len_bytes = getline(&lines->line, &lines->room_bytes, stdin);
    *is_last = len_bytes < 0;
    if (len_bytes < 0 && errno == ENOMEM) return fail_memory(error);
    if (len_bytes < 0 && ferror(stdin)) {
        return dsv4_error_set(error, DSV4_ERROR_IO, "cannot read standard input: %s",
                              strerror(errno));
    }
    for (ssize_t i = 0; i < len_bytes; i++) {
        if (lines->line[i] == '\0') lines->line[i] = '\xff';
    }
    return DSV4_OK;
}

dsv4_status dsv4_chat_lines_next(dsv4_chat_lines *lines, const char **line, dsv4_error *error)
{
    bool is_last = false;
    *line = NULL;
    DSV4_TRY(lines->editor != NULL ? edit_line(lines, &is_last, error)
                                   : read_line(lines, &is_last, error));
    if (is_last) return DSV4_OK;
    lines->line[strcspn(lines->line, "\r\n")] = '\0';
    *line = lines->line;
    return DSV4_OK;
}

void dsv4_chat_lines_close(dsv4_chat_lines *lines)
{
    if (lines == NULL) return;
    if (lines->editor != NULL) el_end(lines->editor);
    if (lines->history != NULL) history_end(lines->history);
    free(lines->line);
    free(lines);
}
