/*
 * test_text_stream.c - text out in whole characters, text in.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "text_stream.h"

#include <stdlib.h>
#include <string.h>

/* Writes text one byte at a time; seen[i] is how many bytes had come out after byte i. */
static void write_bytes_singly(const char *text, size_t n, size_t *seen)
{
    char *out = NULL;
    size_t len_bytes = 0;
    FILE *file = open_memstream(&out, &len_bytes);
    assert_non_null(file);
    dsv4_text_stream stream = {.file = file};
    for (size_t i = 0; i < n; i++) {
        dsv4_text_stream_write(&stream, text + i, 1);
        seen[i] = len_bytes;
    }
    dsv4_text_stream_end(&stream);
    assert_int_equal(len_bytes, n);
    assert_memory_equal(out, text, n);
    assert_int_equal(fclose(file), 0);
    free(out);
}

static void beginnings_of_characters_are_held(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t seen[8];
    } cases[] = {
        {"ab", {1, 2}},
        {"\xc3\xa4z", {0, 2, 3}},
        {"\xe6\x97\xa5", {0, 0, 3}},
        {"\xf0\x9f\x98\x80!", {0, 0, 0, 4, 5}},
        {"a\xe6\x97", {1, 1, 1}},           /* the end brings the rest */
        {"\xe6z", {0, 2}},                  /* no character after all */
        {"\xe6\xc3\xa4", {0, 1, 3}},        /* another one begins */
        {"\x97\xff\xc0\xf8", {1, 2, 3, 4}}, /* nothing that begins one */
        {"\xf0\x9f\x98z", {0, 0, 0, 4}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t seen[8], n = strlen(cases[i].text);
        write_bytes_singly(cases[i].text, n, seen);
        for (size_t j = 0; j < n; j++) assert_int_equal(seen[j], cases[i].seen[j]);
    }
}

static void files_are_read_whole(void **state)
{
    (void)state;
    const size_t sizes[] = {0, 1, 65534, 65535, 65536, 131071, 131072, 300000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        FILE *file = tmpfile();
        assert_non_null(file);
        for (size_t j = 0; j < sizes[i]; j++)
            assert_int_not_equal(fputc((int)(j % 251), file), EOF);
        rewind(file);
        char *text = NULL;
        size_t len_bytes = 0;
        assert_int_equal(dsv4_text_read(file, &text, &len_bytes, NULL), DSV4_OK);
        assert_int_equal(len_bytes, sizes[i]);
        for (size_t j = 0; j < len_bytes; j++) {
            assert_int_equal((unsigned char)text[j], j % 251);
        }
        assert_int_equal(text[len_bytes], 0);
        free(text);
        assert_int_equal(fclose(file), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beginnings_of_characters_are_held),
        cmocka_unit_test(files_are_read_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
