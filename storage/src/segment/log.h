/*
 * segment/log.h: one append-only log: requests in, frames out, marks that say what is safe.
 *
 * The happy path of an append:
 *
 *   1. ql_log_append()   puts it into the queue
 *   2. ql_log_write()    builds a frame of what is queued: `measure` tells sizes, `fill` copies
 *                        records and payloads to their place and applies them to memory, in log
 *                        order; the frame is submitted (with RWF_DSYNC when it is small and
 *                        somebody waits for a flush)
 *   3. completions       arrive in any order; ql_log_advance() moves `written` over the prefix that
 *                        is complete, `durable` over what is flushed, and submits a flush when
 *                        somebody waits for more
 *   4. ql_log_finish()   calls `done` of every append whose mark was reached, in log order
 *
 * While frames are in flight, arrivals wait in the queue and share the next frame: group commit
 * without a timer. A second frame is started only when it is worth a write of its own.
 *
 * Going on to the next segment (`roll`):
 *
 *   NONE -> SEALING     the next frame does not fit: a SEAL frame, flagged LAST, is submitted
 *   SEALING -> OPENING  everything up to the seal is durable: the header of the spare is written
 *   OPENING -> NONE     the header is durable: the spare is the active segment
 *
 * so a flight never spans two files.
 *
 * Failure modes:
 *   - a write or flush fails: env->broken is latched, every append ends with Q_E_BROKEN;
 *   - no spare can be made (disk full): behind the seal everything is refused with Q_E_NO_SPACE; the
 *     log tries again each second, and goes on when there is space.
 *
 * Invariants (ql_log_check):
 *   (1) durable <= written <= tail
 *   (2) all three are multiples of QL_BLOCK
 *   (3) frames in flight are contiguous and end at tail
 *   (4) the active segment holds tail, or tail is its limit
 *
 * Thread: the owner of the directory.
 */
#ifndef QL_SEGMENT_LOG_H
#define QL_SEGMENT_LOG_H

#include "io/transfer.h"
#include "segment/buffer.h"
#include "segment/segment.h"
#include "segment/zero.h"

enum {
    QL_DEPTH_MAX = 8,
    QL_SPARES_MAX = 4
};

struct ql_log;
struct ql_append;

/* Where in the log an append lies. Positions of records and payloads: frame + what is told. */
struct ql_place {
    uint64_t frame; /* position */
    uint32_t frame_size;
    uint32_t records_at; /* from the frame's position */
    uint32_t payloads_at;
    uint64_t wall_ms;
};

struct ql_append_table {
    /* Set sizes and count for a frame in the segment with this incarnation; in log order, and again
     * when the frame ends up elsewhere. 0: not in a frame yet; the most that it can be. */
    void (*measure)(struct ql_append *append, uint64_t incarnation);
    /* Write exactly records_size and payloads_size bytes, and apply. Must not fail. */
    void (*fill)(
        struct ql_append *append,
        const struct ql_place *place,
        uint8_t *records,
        uint8_t *payloads);
    /* Once, from ql_log_finish(). */
    void (*done)(struct ql_append *append, enum q_err err);
};

struct ql_append {
    /* Set by the submitter. */
    const struct ql_append_table *table;
    bool flushed; /* done when durable, else when written */

    /* Set by measure. */
    uint32_t records_size;
    uint32_t payloads_size;
    uint32_t record_count;

    /* Private. */
    uint32_t queued_size; /* what it adds to the queue's estimate */
    struct ql_append *next;
    uint64_t end;
};

struct ql_append_queue {
    struct ql_append *first;
    struct ql_append **last;
};

struct ql_flight {
    struct ql_transfer write;
    struct ql_log *log;
    struct ql_buffer *buffer;
    uint64_t position;
    uint64_t end;
    bool complete;
};

enum ql_roll {
    QL_ROLL_NONE,
    QL_ROLL_SEALING,
    QL_ROLL_OPENING
};

/* A frame that is on its way to the disk: its bytes, without the padding, until it returns. */
typedef void ql_log_frame_fn(void *context, uint64_t position, const uint8_t *data, uint64_t size);

struct ql_log {
    struct ql_env *env;
    char name[QL_LOG_NAME_MAX];
    ql_log_frame_fn *on_frame; /* NULL: nobody wants to know */
    void *frame_context;

    uint64_t segment_bytes;
    uint32_t frame_bytes_max; /* beside the directory's, for a log of small appends */
    bool spare_first;         /* always keep a spare: what is written here may not be refused */
    /* Such a log beside this one, and the files that it may come to. No file is made here but the first
     * before there is space for those, so that what is refused is refused here. NULL: there is none. */
    const struct ql_log *yields_to;
    unsigned yields_files;
    unsigned kept_files; /* ql_log_keep() */

    struct ql_segment_set segments;
    struct ql_segment *active; /* the last of them */
    struct ql_segment *next;   /* OPENING: whose header is being written */
    /* One, and as many more as rolls within a minute have shown to be of use. The last is the next
     * to be taken. */
    struct ql_segment *spares[QL_SPARES_MAX];
    unsigned spare_count;
    uint64_t rolled_ns[QL_SPARES_MAX]; /* the last rolls, in turn */
    unsigned rolled_next;
    uint32_t number_next; /* for file names */
    uint64_t incarnation;

    uint64_t tail; /* of the next frame */
    uint64_t written;
    uint64_t durable;
    uint64_t chain; /* header hash of the last frame */
    uint64_t wall_ms;

    struct ql_append_queue queue;
    uint64_t queued_bytes; /* at most: what was measured when it came */
    struct ql_append_queue wait_written;
    struct ql_append_queue wait_durable;
    struct ql_append_queue refused;
    struct q_fault refused_fault; /* what they get: Q_E_NO_SPACE */

    struct ql_flight flights[QL_DEPTH_MAX];
    unsigned flight_first;
    unsigned flight_count;

    struct ql_transfer flush;
    bool flush_busy;
    uint64_t flush_covers;
    uint64_t unflushed_since_ns; /* 0: nothing */

    enum ql_roll roll;
    struct ql_transfer header_write;
    struct ql_buffer *header_buffer;
    uint64_t spare_retry_ns;
    struct q_fault spare_fault;

    struct ql_zero zero;
};

void ql_log_init(struct ql_log *log, struct ql_env *env, const char *name, uint64_t segment_bytes);
/* Make the first segment, or the one behind a sealed end. After recovery has set the marks. */
Q_MUST_CHECK enum q_err ql_log_start(struct ql_log *log);
/*
 * Nothing is in flight, and nothing will be: what was not answered ends as the log broke, or with
 * Q_STOPPING. Of all logs of a directory before the memory of the first goes: an answer of one may
 * let go of segments of another. A second time does nothing.
 */
void ql_log_end(struct ql_log *log);
/* After ql_log_end(), or when it was never started. */
void ql_log_fini(struct ql_log *log);

/* Q_OK or Q_TOO_BIG (does not fit into a segment). Never calls back. */
Q_MUST_CHECK enum q_err ql_log_append(struct ql_log *log, struct ql_append *append);
/* Have `done` called as for an append that lies in the frame at this position: nothing is added. */
void ql_log_await(struct ql_log *log, struct ql_append *append, uint64_t position);
/* Q_OK, or why appends were refused that `done` has not been called for yet. */
Q_MUST_CHECK enum q_err ql_log_refuses(const struct ql_log *log);
/* Build and submit frames as far as they may go now. */
void ql_log_write(struct ql_log *log, uint64_t now_ns);
/* Move the marks. `force_flush`: flush what is written whether or not somebody waits. */
void ql_log_advance(struct ql_log *log, uint64_t now_ns, bool force_flush);
/* Call `done` of what is finished. */
void ql_log_finish(struct ql_log *log);
/* Nothing queued, in flight or waiting; everything written is durable when `flushed`. */
bool ql_log_is_idle(const struct ql_log *log, bool flushed);
/* When ql_log_advance() wants to be called next, at the latest. */
uint64_t ql_log_deadline_ns(const struct ql_log *log);
/* Keep spares ready, but not more than are of use, and zeros ahead of the tail. Bounded work; an
 * error is told when the spare is needed. */
void ql_log_prepare(struct ql_log *log, uint64_t now_ns);

/* No segment could be made when one was wanted last. */
bool ql_log_is_short(const struct ql_log *log);

/* No segment follows before so many more are there as spares, or as free space, beside what it yields.
 * Whoever may use those up says 0, and the number again when it is done. */
void ql_log_keep(struct ql_log *log, unsigned files);

/*
 * Take sealed segments that end at or below `before` and that nobody has pinned out of the log.
 * They become spares as far as those are of use; the rest is deleted. The superblock already says
 * that the log begins behind them.
 */
Q_MUST_CHECK enum q_err ql_log_drop(struct ql_log *log, uint64_t before);
/* Where the log would begin after ql_log_drop(). */
uint64_t ql_log_drop_end(const struct ql_log *log, uint64_t before);

void ql_log_check(const struct ql_log *log);

/* Position up to which the active segment was written at least once. */
uint64_t ql_log_zeroed(const struct ql_log *log);

/* The largest body that fits into a segment of this log. */
uint64_t ql_log_body_bytes_max(const struct ql_log *log);

#endif /* QL_SEGMENT_LOG_H */
