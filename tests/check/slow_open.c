/*
 * slow_open.c - preloaded into the program, makes opening a safetensors file take 0.4 s.
 *
 * Place: tests, for the bar that shows while a model opens.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

__attribute__((visibility("default"))) int open(const char *path, int flags, ...);

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    int mode = flags & O_CREAT ? va_arg(arguments, int) : 0;
    va_end(arguments);
    const struct timespec pause = {.tv_nsec = 400000000};
    if (strstr(path, ".safetensors") != NULL) (void)nanosleep(&pause, NULL);
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
