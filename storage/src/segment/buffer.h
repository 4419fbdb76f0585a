/*
 * segment/buffer.h: aligned memory for frames on their way to the disk.
 *
 * Two sizes, taken on demand and kept: small ones for a trickle, large ones for load, so that an
 * idle store is small. Registered with the ring up to QL_REGISTERED_MAX (the locked-memory limit of
 * an ordinary user is 8 MiB). A frame larger than a large buffer gets one of its own, freed after
 * use.
 *
 * Thread: the owner of the directory.
 */
#ifndef QL_SEGMENT_BUFFER_H
#define QL_SEGMENT_BUFFER_H

#include "segment/env.h"

enum {
    QL_BUFFER_SMALL = 128 * 1024,
    QL_REGISTERED_MAX = 4 * 1024 * 1024,
};

struct ql_buffer {
    uint8_t *data; /* aligned to a page */
    size_t size;
    int index; /* registered as, or -1 */
    struct ql_buffer *next;
};

/* At least `size` bytes, contents undefined. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_buffer_take(
    struct ql_env *env, size_t size, struct ql_buffer **ret_buffer);
void ql_buffer_give(struct ql_env *env, struct ql_buffer *buffer);
/* Free all that were given back. */
void ql_buffers_free(struct ql_env *env);

#endif /* QL_SEGMENT_BUFFER_H */
