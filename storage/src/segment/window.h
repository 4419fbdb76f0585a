/*
 * segment/window.h: bytes of a log's segments, for whoever reads them forward.
 *
 * Whoever asks for what follows what it was given before is read ahead of: while it looks at a piece,
 * the next ones are on their way. What can't be read ahead is read again when it is asked for, and
 * then alone, so that a bad sector takes no more than the bytes that lie on it.
 *
 * Thread:   the io's owner.
 * Blocking: it waits for its reads; other operations' `done` run meanwhile.
 * Memory:   three pieces, taken when they are needed: at most 12 MiB, or more for a larger frame.
 */
#ifndef QL_SEGMENT_WINDOW_H
#define QL_SEGMENT_WINDOW_H

#include "io/transfer.h"
#include "segment/segment.h"

enum {
    QL_WINDOW_PIECES = 3
};

/* Bytes [from, from + size) of the log, at `data`. */
struct ql_window_piece {
    uint8_t *memory;
    size_t memory_size;
    uint8_t *data;
    const struct ql_segment *segment; /* NULL: nothing */
    uint64_t from;
    uint64_t size;
    struct ql_transfer read; /* under way or done, when `asked` */
    bool asked;
};

struct ql_window {
    struct qlog_io *io;
    struct ql_window_piece pieces[QL_WINDOW_PIECES];
    uint64_t bad_to; /* something below can't be read: what is asked for is read alone */
    unsigned first;  /* the one that is looked at; what was asked for ahead follows */
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
