/*
 * look/unreadable.h: what a disk does not give of a file, found, and given up for good.
 *
 * A start refuses to pass over what it can't read, for it may be there at the next one. What nobody gets
 * back is made to be gone for good: its blocks are written with zeros, which a disk with a bad sector
 * takes, and gives back from then on. So they are damage like any other, and the same at every start.
 *
 * Thread: the io's owner. Blocking: yes; _find() reads the whole file. Memory: a buffer, until it returns.
 */
#ifndef QL_LOOK_UNREADABLE_H
#define QL_LOOK_UNREADABLE_H

#include <qlog/io.h>

struct ql_unreadable {
    uint64_t from; /* in the file; whole blocks, but at its end */
    uint64_t bytes;
};

typedef void ql_unreadable_fn(void *context, const struct ql_unreadable *range);

/*
 * Each range of blocks that several tries do not bring, in the order of the file. Past the page cache
 * where that is possible. Q_OK, also with some; Q_E_NOMEM; failures to open the file.
 */
Q_MUST_CHECK enum q_err ql_unreadable_find(
    struct qlog_io *io, const char *path, ql_unreadable_fn *on_range, void *context);
/* Zeros, flushed; what of the range can be read after all stays. Q_OK; Q_E_IO: the disk does not take them. */
Q_MUST_CHECK enum q_err ql_unreadable_give_up(
    struct qlog_io *io, const char *path, const struct ql_unreadable *range);

#endif /* QL_LOOK_UNREADABLE_H */
