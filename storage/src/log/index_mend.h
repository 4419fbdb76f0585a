/*
 * log/index_mend.h: an index file's bytes from its segment, read beside the store thread.
 *
 * A job of index_worker.h: it has a way of its own to the kernel, and a copy of what it must know of
 * store and segment, so it shares nothing with the store's thread but files that are only read.
 *
 * Thread: _run(): the worker's; all else the store's. Blocking: _run(), as long as reading a segment
 * takes. Memory: window.h, and 64 bytes for each batch, while it runs.
 */
#ifndef QL_LOG_INDEX_MEND_H
#define QL_LOG_INDEX_MEND_H

#include "log/index_build.h"
#include "segment/segment.h"

struct ql_index_mend {
    struct ql_env env; /* a copy; `io` is the job's own */
    char log[QL_LOG_NAME_MAX];
    struct ql_segment segment; /* a copy; its number names the file */
    struct ql_segment *pinned; /* the store's: its file stays what it is */
    uint64_t end;

    struct ql_index_build made; /* the worker's until it is done */
};

/* Of the segment's frames below `header.end`. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_index_mend_begin(
    struct ql_env *env,
    const char *log,
    struct ql_segment *segment,
    const struct ql_index_header *header,
    struct ql_index_build *ret_build);
void ql_index_mend_run(struct ql_index_mend *mend);
/* It is done: what came out is `build`'s. Q_E_NOMEM, Q_E_IO, failures to open the segment. */
void ql_index_mend_take(struct ql_index_build *build);
/* The worker has stopped with it. Nothing, if there is none. */
void ql_index_mend_end(struct ql_index_build *build);

#endif /* QL_LOG_INDEX_MEND_H */
