/*
 * reader.h: read the log of a directory on a given disk, the way tools do.
 */
#ifndef TESTS_CRASH_READER_H
#define TESTS_CRASH_READER_H

#include "format/record.h"
#include "segment/recover.h"

typedef void reader_fn(void *context, const struct ql_frame *frame, const struct ql_record *record);

struct reader_result {
    uint64_t end;
    uint64_t torn_bytes;
    uint64_t rot_bytes;
};

/* Each record of log `index`, in order. Q_OK, or why it could not be read. */
enum q_err reader_run(
    struct qlog_io *io,
    const char *directory,
    unsigned index,
    reader_fn *each,
    void *context,
    struct reader_result *ret_result);

#endif /* TESTS_CRASH_READER_H */
