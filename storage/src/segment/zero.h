/*
 * segment/zero.h: write zeros ahead of a log's writer.
 *
 * Space that was only allocated costs a journal commit of the file system with each flushed write.
 * So a fresh segment is written with zeros once, in the background: the active one ahead of the
 * tail, then the spare, at a bounded rate. It is a matter of speed alone: nothing depends on it, a
 * failure ends it, and no reader trusts a zero.
 *
 * A frame must not be sent where a chunk of zeros is under way: the log asks ql_zero_blocks().
 *
 * Thread: the owner of the directory.
 */
#ifndef QL_SEGMENT_ZERO_H
#define QL_SEGMENT_ZERO_H

#include "io/transfer.h"
#include "segment/segment.h"

struct ql_zero {
    struct ql_transfer write;
    struct ql_segment *segment; /* whose chunk is under way; NULL: none */
    uint64_t next_ns;           /* not before */
};

/*
 * Begin the next chunk, if one is due. `tail`: of the active segment. Either segment may be NULL.
 */
void ql_zero_step(
    struct ql_zero *zero,
    struct ql_env *env,
    struct ql_segment *active,
    struct ql_segment *spare,
    uint64_t tail,
    uint64_t now_ns);
/* True: a frame of this segment that ends at file offset `end` has to wait for the chunk under way. */
bool ql_zero_blocks(struct ql_zero *zero, const struct ql_segment *segment, uint64_t end);
/* When the next step is due; UINT64_MAX: nothing to do, or a chunk is under way. */
uint64_t ql_zero_deadline_ns(
    const struct ql_zero *zero, const struct ql_segment *active, const struct ql_segment *spare);
/* One write of at most `size` bytes of zeros, waited for. For the head of a directory's first. */
void ql_zero_head(struct ql_env *env, struct ql_segment *segment, uint64_t size);

void ql_zeros_free(struct ql_env *env);

#endif /* QL_SEGMENT_ZERO_H */
