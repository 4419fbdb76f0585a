/*
 * segment/scan.h: the one reader of frames: for recovery, cursors and tools.
 *
 * A scan reads a log's segments forward, past the page cache where that is possible, and checks
 * each frame by the rules of format/layout.h. It never decides what damage means: it tells what is
 * there, and can look for the next frame that is whole.
 *
 * Thread:   the io's owner.
 * Blocking: yes, it waits for its reads. What fails is read three times before it is said.
 * Memory:   window.h. A frame's bytes are valid until the next call.
 * Failure:  Q_E_IO when the disk does not give the bytes.
 */
#ifndef QL_SEGMENT_SCAN_H
#define QL_SEGMENT_SCAN_H

#include <qbase/bytes.h>

#include "format/block.h"
#include "segment/window.h"

enum ql_scan_state {
    QL_SCAN_FRAME,   /* a whole frame */
    QL_SCAN_LIMIT,   /* the scan's own limit, or the end of the last segment */
    QL_SCAN_ZERO,    /* never written */
    QL_SCAN_STALE,   /* a frame of an earlier use of the segment */
    QL_SCAN_FOREIGN, /* a frame of another place */
    QL_SCAN_ORPHAN,  /* a frame of an older generation, or not linked to the one before */
    QL_SCAN_GARBAGE, /* no frame header */
    QL_SCAN_RECORDS, /* the header is right, the records are not */
    QL_SCAN_PAYLOAD, /* the records are right, a payload is not */
    QL_SCAN_NEWER,   /* a version this program does not know */
    QL_SCAN_READ,    /* the disk does not give the bytes; see `error` */
};

struct ql_scan {
    /* Set by ql_scan_init(). */
    struct ql_env *env;
    const struct ql_segment_set *segments;
    uint64_t position; /* of the next frame */
    uint64_t limit;    /* frames must end at or below; UINT64_MAX: none */
    uint64_t ahead;    /* nothing behind is read before it is asked for; UINT64_MAX: none */
    uint64_t end;      /* where the log was said to end, */
    uint64_t since;    /* and the generation that went on there; UINT64_MAX, 0: nobody said it */

    /* What the last frame was; what the next one is held against. */
    bool linked; /* `chain` is known */
    uint64_t chain;
    uint64_t generation;
    uint64_t wall_ms;

    /* Payload hashes are checked of frames that end above this position. */
    uint64_t payloads_above;

    /* The last answer. */
    struct ql_frame frame;
    struct q_bytes records;
    struct q_bytes payloads;
    int error;
    uint64_t unread; /* what a search could not read first; UINT64_MAX: nothing */

    struct ql_window *window; /* private; copies share it */
};

void ql_scan_init(
    struct ql_scan *scan,
    struct ql_env *env,
    const struct ql_segment_set *segments,
    uint64_t position);
void ql_scan_fini(struct ql_scan *scan);
/* The frame at `position`. On QL_SCAN_FRAME the scan goes on behind it; else it stays. */
enum ql_scan_state ql_scan_next(struct ql_scan *scan);
/*
 * Look for a whole frame that begins in (position, until). True: the scan stands at it, unlinked,
 * and ql_scan_next() will give it. False: the scan stays. What can't be read is passed over, and `unread`
 * says where that began.
 */
bool ql_scan_search(struct ql_scan *scan, uint64_t until);
/* Fail with what QL_SCAN_READ has met: file, place and errno. Q_E_IO, Q_E_NOMEM, … */
enum q_err ql_scan_fail(const struct ql_scan *scan, const char *log);
/* "a frame header", "never written", … for messages. */
const char *ql_scan_state_text(enum ql_scan_state state);

#endif /* QL_SEGMENT_SCAN_H */
