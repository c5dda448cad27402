/*
 * replay_device.c - device memory between guards, a watched stream, and the graph of a decode step.
 *
 * Place: tests.
 */
#include "replay_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { GUARD_BYTES = 256, GUARD_BYTE = 0xc9, HANG_SECONDS = 20, POLL_NS = 20000, MAX_NODES = 64 };

void replay_note(replay_device *d, int status)
{
    if (d->status == 0) d->status = status;
}

bool replay_device_good(const replay_device *d, char text[REPLAY_TEXT_BYTES])
{
    if (d->status == 0) return true;
    (void)snprintf(text, REPLAY_TEXT_BYTES, "device: %.300s", d->gpu->error_text(d->status));
    return false;
}

void replay_device_open(replay_device *d, const dsv4_gpu_runtime *gpu, const char *name)
{
    memset(d, 0, sizeof *d);
    d->gpu = gpu;
    d->name = name;
    replay_note(d, gpu->stream_open(&d->stream));
}

void replay_device_close(replay_device *d)
{
    for (int i = 0; i < d->n_blocks; i++) (void)d->gpu->release(d->blocks[i]);
    if (d->stream != NULL) (void)d->gpu->stream_close(d->stream);
}

/* ---- memory ---- */

void *replay_device_alloc(replay_device *d, int64_t n_bytes, int fill)
{
    const size_t guarded_bytes = (size_t)n_bytes + 2 * (size_t)GUARD_BYTES;
    void *block = NULL;
    replay_note(d, d->n_blocks < REPLAY_MAX_BLOCKS ? d->gpu->alloc(&block, guarded_bytes)
                                                   : GPU_OUT_OF_MEMORY);
    if (block == NULL) return NULL;
    d->blocks[d->n_blocks] = block;
    d->block_bytes[d->n_blocks++] = (size_t)n_bytes;
    unsigned char *data = (unsigned char *)block + GUARD_BYTES;
    replay_note(d, d->gpu->fill(block, GUARD_BYTE, GUARD_BYTES));
    replay_note(d, d->gpu->fill(data, fill, (size_t)n_bytes));
    replay_note(d, d->gpu->fill(data + n_bytes, GUARD_BYTE, GUARD_BYTES));
    replay_note(d, d->gpu->wait()); /* our stream does not wait for these */
    return data;
}

void *replay_device_copy(replay_device *d, const void *host, int64_t n_bytes)
{
    void *data = replay_device_alloc(d, n_bytes, 0);
    if (data == NULL) return NULL;
    replay_note(d, d->gpu->put(data, host, (size_t)n_bytes));
    replay_note(d, d->gpu->wait());
    return data;
}

bool replay_device_guards_hold(replay_device *d, char text[REPLAY_TEXT_BYTES])
{
    unsigned char guards[2][GUARD_BYTES];
    for (int i = 0; i < d->n_blocks; i++) {
        const unsigned char *block = d->blocks[i];
        const size_t end = GUARD_BYTES + d->block_bytes[i];
        replay_note(d, d->gpu->get(guards[0], block, GUARD_BYTES));
        replay_note(d, d->gpu->get(guards[1], block + end, GUARD_BYTES));
        if (!replay_device_good(d, text)) return false;
        for (int j = 0; j < 2 * GUARD_BYTES; j++) {
            if (guards[j / GUARD_BYTES][j % GUARD_BYTES] == GUARD_BYTE) continue;
            (void)snprintf(text, REPLAY_TEXT_BYTES,
                           "bytes %s block %d of device memory were written",
                           j < GUARD_BYTES ? "before" : "behind", i);
            return false;
        }
    }
    return true;
}

/* ---- waiting ---- */

static double now_s(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void replay_device_wait(replay_device *d)
{
    const struct timespec pause = {.tv_nsec = POLL_NS};
    const double deadline = now_s() + HANG_SECONDS;
    int status;
    if (d->stream == NULL) return;
    while ((status = d->gpu->stream_query(d->stream)) == GPU_NOT_READY) {
        if (now_s() > deadline) {
            printf("%s: FAILED: the device hangs: a batch has not ended within %d s\n", d->name,
                   HANG_SECONDS);
            (void)fflush(stdout);
            _Exit(1); /* the runtime's own end would wait for the device */
        }
        (void)nanosleep(&pause, NULL);
    }
    replay_note(d, status);
}

/* ---- steps ---- */

bool replay_step_make(replay_device *d, replay_step *step, char text[REPLAY_TEXT_BYTES])
{
    dsv4_error error = {.status = DSV4_OK};
    if (!replay_device_good(d, text)) return false;
    if (dsv4_attn_plan_size(&step->params, &step->plan_bytes, &step->workspace_bytes, &error)) {
        (void)snprintf(text, REPLAY_TEXT_BYTES, "plan_size: %.300s", error.text);
        return false;
    }
    step->plan = replay_device_alloc(d, (int64_t)step->plan_bytes, 0xff);
    step->workspace = replay_device_alloc(d, (int64_t)step->workspace_bytes, 0);
    return replay_device_good(d, text);
}

void replay_step_free(const replay_device *d, replay_step *step)
{
    if (step->exec != NULL) (void)d->gpu->exec_close(step->exec);
    if (step->graph != NULL) (void)d->gpu->graph_close(step->graph);
}

bool replay_step_enqueue(replay_device *d, replay_step *step, char text[REPLAY_TEXT_BYTES])
{
    dsv4_error error = {.status = DSV4_OK};
    if (dsv4_attn_plan_build(d->stream, &step->params, step->plan, step->plan_bytes, &error) ==
        DSV4_OK) {
        (void)dsv4_attn_decode(d->stream, &step->params, step->plan, step->plan_bytes,
                               step->workspace, step->workspace_bytes, &error);
    }
    if (error.status == DSV4_OK) return true;
    (void)snprintf(text, REPLAY_TEXT_BYTES, "step: %.300s", error.text);
    return false;
}

static bool has_only_kernels(replay_device *d, replay_step *step, char *text)
{
    void *nodes[MAX_NODES];
    size_t n_nodes = 0;
    replay_note(d, d->gpu->graph_nodes(step->graph, NULL, &n_nodes));
    if (n_nodes < 2 || n_nodes > MAX_NODES) {
        (void)snprintf(text, REPLAY_TEXT_BYTES, "a graph of %zu nodes, expected those of two calls",
                       n_nodes);
        return false;
    }
    replay_note(d, d->gpu->graph_nodes(step->graph, nodes, &n_nodes));
    for (size_t i = 0; i < n_nodes && d->status == 0; i++) {
        int type = -1;
        replay_note(d, d->gpu->node_type(nodes[i], &type));
        if (type == GPU_NODE_KERNEL) continue;
        (void)snprintf(text, REPLAY_TEXT_BYTES,
                       "node %zu of the graph is of type %d, expected kernels only (%d)", i, type,
                       (int)GPU_NODE_KERNEL);
        return false;
    }
    step->n_nodes = n_nodes;
    return replay_device_good(d, text);
}

bool replay_step_capture(replay_device *d, replay_step *step, char text[REPLAY_TEXT_BYTES])
{
    if (!replay_device_good(d, text)) return false;
    replay_note(d, d->gpu->capture_begin(d->stream));
    if (!replay_device_good(d, text)) return false;
    const bool is_enqueued = replay_step_enqueue(d, step, text);
    replay_note(d, d->gpu->capture_end(d->stream, &step->graph));
    if (!is_enqueued) return false;
    if (!replay_device_good(d, text) || !has_only_kernels(d, step, text)) return false;
    replay_note(d, d->gpu->exec_open(&step->exec, step->graph));
    return replay_device_good(d, text);
}
