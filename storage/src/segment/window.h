/*
 * segment/window.h: bytes of a log's segments, for whoever reads them forward.
 *
 * Whoever asks for what follows what it was given before is read ahead of: while it looks at a piece,
 * the next ones are on their way. What can't be read ahead is read again when it is asked for, and
 * then alone, so that a bad sector takes no more than the bytes that lie on it.
 *
 * Pieces go round in one stretch of memory that is mapped twice, one behind the other: what is asked
 * for lies in one piece of memory wherever it begins, and nothing is copied.
 *
 * Thread:   the io's owner.
 * Blocking: it waits for its reads; other operations' `done` run meanwhile.
 * Memory:   8 MiB, touched as it is needed; for frames of more than 4 MiB two to four times the
 *           largest. Until ql_window_fini().
 */
#ifndef QL_SEGMENT_WINDOW_H
#define QL_SEGMENT_WINDOW_H

#include "io/transfer.h"
#include "segment/segment.h"

enum {
    QL_WINDOW_PIECES = 4 /* under way */
};

/* A read of bytes [from, to) of the log. */
struct ql_window_piece {
    uint64_t from;
    uint64_t to;
    struct ql_transfer read;
};

struct ql_window {
    struct qlog_io *io;
    uint8_t *memory;
    size_t room; /* of `memory`, which is mapped twice */

    const struct ql_segment *segment; /* NULL: nothing is here */
    uint64_t start;  /* where reading on began; its byte is the first of `memory` */
    uint64_t ready;  /* bytes up to here are here, at most `room` below `asked` */
    uint64_t asked;  /* those up to here are under way */
    bool ahead;      /* who reads has shown that it reads on */
    uint64_t bad_to; /* something below can't be read: what is asked for is read alone */

    struct ql_window_piece pieces[QL_WINDOW_PIECES]; /* under way, in their order */
    unsigned first;
    unsigned count;
};

void ql_window_init(struct ql_window *window, struct qlog_io *io);
/* Waits for what is under way. */
void ql_window_fini(struct ql_window *window);
/*
 * `size` bytes from `position` on; they stay until the next call. Nothing at or behind `limit` is read
 * ahead. 0 or -errno.
 */
int ql_window_load(
    struct ql_window *window,
    const struct ql_segment *segment,
    uint64_t position,
    uint64_t size,
    uint64_t limit,
    const uint8_t **ret_data);

#endif /* QL_SEGMENT_WINDOW_H */
