/*
 * read/scrub.h: reads again what was stored long ago, slowly, and tells what has rotted.
 *
 * Nobody may want a message for weeks, and by then its copy elsewhere is gone, too. So the sealed
 * segments of a log are walked from the first to the last, a small read at a time, and each frame is
 * held against its hashes and the chain. A walk begins a day after the one before it began, and with
 * the first segment when the store is opened.
 *
 *   RESTING   until it is time, and nobody reads for consumers
 *   READING   a stretch behind what is in the buffer, its segment pinned
 *   CHECKING  the worker looks at the frames that are complete
 *
 * What is wrong, or can't be read, is read once more before it is told. A range of damage is told when
 * it has ended.
 *
 * Thread: the store's. Blocking: never, but _fini(): until nothing is under way. Memory: the largest
 * frame, while it walks.
 */
#ifndef QL_READ_SCRUB_H
#define QL_READ_SCRUB_H

#include "read/worker.h"
#include "segment/log.h"

enum ql_scrub_state {
    QL_SCRUB_RESTING,
    QL_SCRUB_READING,
    QL_SCRUB_CHECKING
};

struct ql_scrub_options {
    uint64_t bytes_per_s; /* UINT64_MAX: it never walks */
    void *context;
    /* Bytes of the log are damaged (Q_E_CORRUPT), or can't be read (`sys`: why). */
    void (*on_bad)(void *context, uint64_t position, uint64_t bytes, enum q_err err, int sys);
};

struct ql_scrub {
    struct ql_log *log;
    struct ql_worker *worker;
    struct ql_scrub_options options;
    enum ql_scrub_state state;
    uint64_t next_ns; /* not before */
    uint64_t begun_ns;

    uint64_t position; /* of the buffer's first byte: where a frame should begin */
    bool linked;       /* `chain` is known */
    uint64_t chain;
    bool again; /* the second look */
    uint8_t *buffer;
    uint64_t capacity;
    uint64_t size; /* in the buffer */
    uint64_t rot_from;
    uint64_t rot_to; /* damage that is not told yet */

    struct ql_segment *segment; /* pinned while it is read */
    struct ql_transfer read;

    /* The worker's while it checks. */
    struct ql_job job;
    uint64_t incarnation;
    uint64_t end; /* of the segment's frames */
    uint64_t used;
    uint64_t wanted; /* bytes of the frame that is not complete yet */
    uint64_t bad_from;
    uint64_t bad_to;
    bool bad_linked; /* `linked` and `chain` before it */
    uint64_t bad_chain;

    uint64_t bytes; /* looked at, in all */
};

void ql_scrub_init(
    struct ql_scrub *scrub,
    struct ql_log *log,
    struct ql_worker *worker,
    const struct ql_scrub_options *options);
/* The worker has stopped. Before the log goes. */
void ql_scrub_fini(struct ql_scrub *scrub);
/* One step, if it is time. `busy`: others read. */
void ql_scrub_step(struct ql_scrub *scrub, uint64_t now_ns, bool busy);
/* When the next step is due; UINT64_MAX: something is under way, or there is nothing to do. */
uint64_t ql_scrub_deadline_ns(const struct ql_scrub *scrub);

#endif /* QL_READ_SCRUB_H */
