/*
 * io/transfer.h: a read or write that is done when all of it is done.
 *
 * The kernel may do less than was asked for. A transfer submits the rest until everything has
 * moved, so that a short write can never be taken for a full one.
 *
 * Thread:   the io's owner.
 * Blocking: _submit() never; _wait() until done.
 * Memory:   the struct is the caller's, until `done`.
 * Failure:  `error` is 0 or negative errno. A write that moves nothing is -EIO; a read that meets
 *           the end of the file succeeds with the rest of the buffer zeroed (`moved` tells). What
 *           the kernel says of a bad sector or a lost disk beside EIO is -EIO, too.
 */
#ifndef QL_IO_TRANSFER_H
#define QL_IO_TRANSFER_H

#include <qlog/io.h>

struct ql_transfer;
typedef void ql_transfer_done_fn(struct ql_transfer *transfer);

struct ql_transfer {
    /* Set by the caller: kind, durable, file, buffer, length, at, data of `op`; done. */
    struct qlog_io_op op;
    ql_transfer_done_fn *done; /* may be NULL when ql_transfer_wait() is used */
    uint32_t piece;            /* bytes that are under way at a time, at most; 0: all of them */

    /* Set before `done`. */
    int error;
    uint32_t moved;
    bool finished;

    /* Private. */
    struct qlog_io *io;
    uint8_t *data;
    uint32_t length;
    uint64_t at;
};

void ql_transfer_submit(struct qlog_io *io, struct ql_transfer *transfer);
/* Submit and enter the io until it is done; other operations' `done` run meanwhile. Returns error. */
int ql_transfer_wait(struct qlog_io *io, struct ql_transfer *transfer);

#endif /* QL_IO_TRANSFER_H */
