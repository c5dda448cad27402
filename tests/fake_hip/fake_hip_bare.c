/*
 * fake_hip_bare.c - the stand-in for AMD's runtime without kernels: launches leave a record.
 *
 * Place: tests.
 */
#include "fake_hip_state.h"

fake_hip_runner *const fake_hip_default_runner = NULL;
const int fake_hip_default_units = 256;
