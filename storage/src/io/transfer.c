#include "io/transfer.h"

#include <errno.h>
#include <string.h>

#include <qbase/clock.h>

#include "planted.h"

static void transfer_step(struct ql_transfer *transfer);
static void transfer_on_done(struct qlog_io_op *op);
static bool is_of_the_disk(int64_t result);
static void transfer_finish(struct ql_transfer *transfer, int error);

void
ql_transfer_submit(struct qlog_io *io, struct ql_transfer *transfer)
{
    transfer->io = io;
    transfer->error = 0;
    transfer->moved = 0;
    transfer->finished = false;
    transfer->data = transfer->op.data;
    transfer->length = transfer->op.length;
    transfer->at = transfer->op.at;
    transfer_step(transfer);
}

int
ql_transfer_wait(struct qlog_io *io, struct ql_transfer *transfer)
{
    transfer->done = NULL;
    ql_transfer_submit(io, transfer);
    while (!transfer->finished) {
        int rv = io->table->enter(io, Q_NS_PER_S);
        if (rv < 0) return rv;
    }
    return transfer->error;
}

static void
transfer_step(struct ql_transfer *transfer)
{
    transfer->op.data = transfer->data + transfer->moved;
    transfer->op.length = transfer->length - transfer->moved;
    if (transfer->piece > 0 && transfer->op.length > transfer->piece)
        transfer->op.length = transfer->piece;
    transfer->op.at = transfer->at + transfer->moved;
    transfer->op.done = transfer_on_done;
    transfer->io->table->submit(transfer->io, &transfer->op);
}

static void
transfer_on_done(struct qlog_io_op *op)
{
    struct ql_transfer *transfer = q_container_of(op, struct ql_transfer, op);
    if (op->result == -EINTR || op->result == -EAGAIN) {
        transfer_step(transfer);
        return;
    }
    /* A direct read that goes on at the odd end of a cut file: that is its end. */
    if (op->result == -EINVAL && op->kind == QLOG_IO_READ && transfer->moved > 0) op->result = 0;
    if (op->result < 0) {
        bool unreadable = op->kind == QLOG_IO_READ && is_of_the_disk(op->result);
        transfer_finish(transfer, unreadable ? -EIO : (int)op->result);
        return;
    }
    if (op->kind == QLOG_IO_FLUSH) {
        transfer_finish(transfer, 0);
        return;
    }
    transfer->moved += (uint32_t)op->result;
    bool part = QL_PLANTED(short_write) && op->kind == QLOG_IO_WRITE && op->result > 0;
    if (transfer->moved == transfer->length || part) {
        transfer_finish(transfer, 0);
    } else if (op->result > 0) {
        transfer_step(transfer);
    } else if (op->kind == QLOG_IO_READ) {
        memset(transfer->data + transfer->moved, 0, transfer->length - transfer->moved);
        transfer_finish(transfer, 0);
    } else {
        transfer_finish(transfer, -EIO);
    }
}

/* A direct read is told what the driver knows: a medium error is ENODATA then, and so on. */
static bool
is_of_the_disk(int64_t result)
{
    static const int errors[] = {
        EIO, ENODATA, EREMOTEIO, EILSEQ, ETIMEDOUT, ENOLINK, EBADE, ENXIO
    };
    for (unsigned i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
        if (result == -errors[i]) return true;
    return false;
}

static void
transfer_finish(struct ql_transfer *transfer, int error)
{
    transfer->error = error;
    transfer->finished = true;
    if (transfer->done != NULL) transfer->done(transfer);
}
