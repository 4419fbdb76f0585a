/*
 * delay/filing.h: schedule files: runs of sealed segments are written beside these, and read at a start.
 *
 * A run whose segment is sealed is filed: one at a time, the first in the log first.
 *
 *   IDLE -> BUILDING      its entries are sorted and hashed, by the worker
 *   BUILDING -> BODY      pages and tail are written, a MiB at a time
 *   BODY -> FLUSH -> HEAD flushed, then the header: a header that is there means a whole file
 *   HEAD -> IDLE          the run is read from the file from now on, its entries in memory go
 *
 * Files are derived: one that can't be written is tried again later, one that is missing or does not
 * fit its segment is made again from that. Not filed are a run that is being written again (it is
 * about to go), a segment with damage (it is read, and told, at each start), and, while the disk is
 * full, any.
 *
 * Thread: the store's. Blocking: ql_filing_open(), _stop(). Memory: a copy of the run while it is built.
 */
#ifndef QL_DELAY_FILING_H
#define QL_DELAY_FILING_H

#include "format/schedule_file.h"
#include "io/transfer.h"
#include "read/worker.h"
#include "segment/segment.h"

struct qlog_delay;
struct ql_run;

/* The bytes of a schedule file, from the entries of a segment in any order. */
struct ql_schedule_build {
    /* Set by the caller. Counts and hashes of `header` are filled in. */
    struct ql_schedule_header header;
    const struct ql_delay_entry *entries;
    const uint64_t *replaced;
    uint8_t *subjects; /* rows, by id */

    /* Set when it is done. Q_OK, Q_E_NOMEM. */
    enum q_err err;
    uint8_t *file; /* the caller frees it */
    uint64_t file_size;
};
void ql_schedule_build(struct ql_schedule_build *build);

/* A schedule file as a run reads it. */
struct ql_run_file {
    struct ql_schedule_header header;
    struct ql_schedule_layout layout;
    uint64_t *starts;
    const uint8_t *map; /* NULL: not yet */
    uint32_t loaded;    /* the page whose entries follow; UINT32_MAX: none */
    struct ql_delay_entry entries[QL_SCHEDULE_PAGE_MAX];
};

enum ql_filing_step {
    QL_FILING_IDLE,
    QL_FILING_BUILDING,
    QL_FILING_BUILT,
    QL_FILING_BODY,
    QL_FILING_FLUSH,
    QL_FILING_HEAD,
    QL_FILING_WRITTEN,
    QL_FILING_FAILED,
};

struct ql_filing {
    enum ql_filing_step step;
    struct ql_worker worker;
    struct ql_job job;
    struct ql_run *run;             /* NULL: it is gone meanwhile, */
    struct ql_delay_entry *orphans; /* and these were its entries */
    uint64_t *orphans_replaced;
    struct ql_schedule_build build;
    int file;
    uint32_t number; /* in its name: that of the segment */
    uint64_t moved;
    struct ql_transfer transfer;
    uint64_t retry_ns;
};

void ql_filing_init(struct qlog_delay *delay, bool threaded);
/* Waits for what is under way. */
void ql_filing_stop(struct qlog_delay *delay);
/* One step. */
void ql_filing_turn(struct qlog_delay *delay);
uint64_t ql_filing_deadline_ns(const struct qlog_delay *delay);
/* The run is about to go, and its file with it. */
void ql_filing_forget(struct qlog_delay *delay, struct ql_run *run);

/*
 * The file of a sealed segment, header and tail checked. `*ret_tail` is memory of the caller's, which
 * the views of ql_schedule_tail_open() are of. Q_OK; Q_NOT_FOUND: there is none that fits; Q_E_CORRUPT: it
 * is damaged; failures.
 */
Q_MUST_CHECK enum q_err ql_run_file_open(
    struct ql_env *env,
    const char *log,
    const struct ql_segment *segment,
    uint64_t end,
    struct ql_run_file **ret_file,
    uint8_t **ret_tail);
void ql_run_file_free(struct ql_env *env, struct ql_run_file *file);
/* Have the entries of a page in `entries`. Q_OK, Q_E_CORRUPT, Q_E_IO, Q_E_NOMEM, Q_E_FILES. */
Q_MUST_CHECK enum q_err ql_run_file_load(
    struct ql_env *env,
    const char *log,
    uint32_t segment,
    struct ql_run_file *file,
    uint32_t number);
/* Files that belong to no sealed segment are removed. */
Q_MUST_CHECK enum q_err ql_filing_sweep(struct qlog_delay *delay);
/* Path of the schedule file of the segment with this number; returns `out`. */
const char *ql_schedule_path(
    const struct ql_env *env, const char *log, uint32_t number, char out[QL_PATH_MAX]);

#endif /* QL_DELAY_FILING_H */
