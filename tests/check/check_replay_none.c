/*
 * check_replay_none.c - check_replay in a build without CUDA.
 *
 * Place: tests.
 */
#include <stdio.h>

int main(void)
{
    fprintf(stderr, "check_replay: no CUDA device: this build has no CUDA\n");
    return 2;
}
