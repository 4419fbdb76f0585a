/*
 * segment/recover.h: read a log from a position to its end, and decide where the end is.
 *
 * At the first place X that is no whole frame, let D be the newest durable mark known: the
 * superblock's, or that of any whole frame behind X.
 *
 *   X >= D   the log ends at X. What lies behind was never flushed: a torn tail, reported when
 *            there was something, unless the superblock says that the log ended at X before.
 *   X <  D   rot: the range up to the next whole frame (or D) is reported, kept, and passed over.
 *
 * What the disk does not give is neither: it may be there all the same. At X >= D it fails the
 * recovery; below, it does that for who has to know what lies there, and is told as rot to others.
 *
 * The same function serves recovery, which goes on to write at the end, and tools, which only look.
 *
 * Thread: the io's owner. Blocking: yes.
 */
#ifndef QL_SEGMENT_RECOVER_H
#define QL_SEGMENT_RECOVER_H

#include "segment/scan.h"

struct ql_recover {
    /* Set by the caller. */
    struct ql_env *env;
    const char *log;
    const struct ql_segment_set *segments;
    uint64_t from;             /* first position to read; a frame begins there */
    struct ql_super_log marks; /* of this log in the superblock */
    uint64_t since;            /* generation of what was written behind marks.end */
    bool clean;                /* the superblock says so: the log ends at marks.end exactly */
    bool live;                 /* another process may be writing: stop at marks.durable */
    uint64_t flight_bytes;     /* frames in flight lay within, at a crash; 0: a default */
    bool whole;                /* what can't be read fails the recovery wherever it is */
    bool deep;                 /* check every payload, not only those above the durable mark */
    void *context;
    /* Each whole frame, in order. Anything but Q_OK ends the recovery with it. May be NULL. */
    enum q_err (*on_frame)(void *context, const struct ql_scan *scan);
    /* A range of rot. May be NULL. */
    void (*on_rot)(void *context, uint64_t from, uint64_t to, enum ql_scan_state state);

    bool linked; /* the next four tell of the frame before `from`; else they are 0 */

    /* Set by ql_recover(). */
    uint64_t chain;
    uint64_t wall_ms;
    uint64_t generation; /* highest seen */
    bool sealed;         /* the last frame is a seal: the log goes on in another segment */
    uint64_t end;
    uint64_t durable;    /* D */
    uint64_t torn_bytes; /* 0: the log ended cleanly */
    uint64_t rot_bytes;
    uint64_t unread; /* where the log's end begins to be unreadable; 0: it was read */
    uint64_t frames;
    uint64_t records;

    /* Private, but for reading: the scan, at the frame just told. */
    struct ql_scan scan;
};

/* Begin, to read frame by frame. Ended by ql_recover_end(). */
void ql_recover_begin(struct ql_recover *recover);
/* Q_OK: recover->scan holds the next whole frame. Q_END: the end is decided. Failures: Q_E_IO, … */
Q_MUST_CHECK enum q_err ql_recover_next(struct ql_recover *recover);
void ql_recover_end(struct ql_recover *recover);
/* Begin, read all frames, end. */
Q_MUST_CHECK enum q_err ql_recover(struct ql_recover *recover);

#endif /* QL_SEGMENT_RECOVER_H */
