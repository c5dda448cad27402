/*
 * fake_hip_state.h - what the files of the stand-in for AMD's runtime have in common.
 *
 * Place: tests.
 */
#ifndef DSV4_TESTS_FAKE_HIP_STATE_H
#define DSV4_TESTS_FAKE_HIP_STATE_H

#include "fake_hip.h"

/* Of hipError_t. */
enum {
    FAKE_INVALID_VALUE = 1,
    FAKE_OUT_OF_MEMORY = 2,
    FAKE_INVALID_CONFIGURATION = 9,
    FAKE_NO_DEVICE = 100,
    FAKE_INVALID_DEVICE = 101,
    FAKE_NO_BINARY = 209,
    FAKE_NOT_FOUND = 500,
    FAKE_IN_CAPTURE = 900,
};

/* What the library does with launches, and its devices' compute units (fake_hip_bare.c, fake_hip_fibers.c). */
extern fake_hip_runner *const fake_hip_default_runner;
extern const int fake_hip_default_units;

/* A new entry of the record; it stays until the record is forgotten. */
fake_hip_call *fake_hip_record(const char *name);
/* What a test wants this call to fail with, or 0. */
int fake_hip_failure(const char *name);
/* Runs the kernel of a launch, if there is a way to. */
void fake_hip_run(const fake_hip_call *launch);

/* Whether any stream is captured. */
bool fake_hip_is_capturing(void);
/* Puts a launch into the stream's graph; false when it is not captured. */
bool fake_hip_keep(void *stream, const fake_hip_call *launch);

#endif
