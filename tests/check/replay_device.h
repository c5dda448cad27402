/*
 * replay_device.h - a decode step on the GPU as an engine runs it: memory made once, a stream of its own, a graph.
 *
 * Place: tests. Every block of device memory lies between guards. Failures of the runtime are noted, the first one
 * counts; calls after it do nothing that matters.
 */
#ifndef DSV4_TESTS_REPLAY_DEVICE_H
#define DSV4_TESTS_REPLAY_DEVICE_H

#include "gpu_runtime.h"
#include "replay_case.h"

enum { REPLAY_MAX_BLOCKS = 32 };

typedef struct replay_device {
    const dsv4_gpu_runtime *gpu;
    void *stream;
    int status;       /* the first failure */
    const char *name; /* of the check that runs, for a hang */
    unsigned char *blocks[REPLAY_MAX_BLOCKS];
    size_t block_bytes[REPLAY_MAX_BLOCKS];
    int n_blocks;
} replay_device;

/* plan_build and decode of one call. */
typedef struct replay_step {
    dsv4_attn_params params; /* of device tensors */
    void *plan, *workspace;
    size_t plan_bytes, workspace_bytes;
    void *graph, *exec;
    size_t n_nodes;
} replay_step;

void replay_device_open(replay_device *d, const dsv4_gpu_runtime *gpu, const char *name);
/* Frees blocks and stream. */
void replay_device_close(replay_device *d);

void replay_note(replay_device *d, int status);
/* False, with the runtime's text, when something failed. */
bool replay_device_good(const replay_device *d, char text[REPLAY_TEXT_BYTES]);

/* n_bytes of `fill` between guards; NULL on failure. */
void *replay_device_alloc(replay_device *d, int64_t n_bytes, int fill);
/* The same with a copy of host memory. */
void *replay_device_copy(replay_device *d, const void *host, int64_t n_bytes);
bool replay_device_guards_hold(replay_device *d, char text[REPLAY_TEXT_BYTES]);

/*
 * Waits for the stream by asking again and again. After 20 seconds the device is taken to hang: says so by the name of
 * the check and ends the program with status 1, since nothing can be done with that device any more.
 */
void replay_device_wait(replay_device *d);

/* Plan and workspace for step->params. */
bool replay_step_make(replay_device *d, replay_step *step, char text[REPLAY_TEXT_BYTES]);
void replay_step_free(const replay_device *d, replay_step *step);

/* Enqueues plan_build and decode. */
bool replay_step_enqueue(replay_device *d, replay_step *step, char text[REPLAY_TEXT_BYTES]);

/*
 * Captures the same, and refuses a graph that has anything but kernels. While it captures, the runtime itself refuses
 * allocations and waits of any thread.
 */
bool replay_step_capture(replay_device *d, replay_step *step, char text[REPLAY_TEXT_BYTES]);

#endif
