/*
 * test_files.h - what the tests of file formats share: a directory of its own for each test that
 * touches files, and a check of error texts. Include after cmocka.h.
 */
#ifndef DSV4_TESTS_TEST_FILES_H
#define DSV4_TESTS_TEST_FILES_H

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LENGTH_OF(array) (sizeof(array) / sizeof(array)[0])

/* A unit test that runs inside an empty directory, removed after it. */
#define IN_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, enter_directory, leave_directory)

static inline void assert_contains(const char *text, const char *part)
{
    if (part != NULL && strstr(text, part) == NULL) {
        fail_msg("'%s' does not contain '%s'", text, part);
    }
}

static inline int enter_directory(void **state)
{
    /* Not where the test was started: a crash leaves the directory behind. */
    const char *temporary = getenv("TMPDIR");
    char *directory = malloc(4096);
    if (directory == NULL) return -1;
    (void)snprintf(directory, 4096, "%s/dsv4_test.XXXXXX", temporary != NULL ? temporary : "/tmp");
    if (mkdtemp(directory) == NULL || chdir(directory) != 0) return -1;
    *state = directory;
    return 0;
}

/* Number of files in the current directory; removes them when asked to. */
static inline int visit_files(bool remove_them)
{
    DIR *directory = opendir(".");
    assert_non_null(directory);
    int n_files = 0;
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        n_files++;
        if (remove_them) assert_int_equal(remove(entry->d_name), 0);
    }
    closedir(directory);
    return n_files;
}

static inline int leave_directory(void **state)
{
    (void)visit_files(true);
    int failed = chdir("..") != 0 || rmdir(*state) != 0;
    free(*state);
    return failed;
}

static inline void write_bytes(const char *path, const void *bytes, size_t len_bytes)
{
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(bytes, 1, len_bytes, stream), len_bytes);
    assert_int_equal(fclose(stream), 0);
}

#endif
