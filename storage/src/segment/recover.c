#include "segment/recover.h"

#include <errno.h>

#include <qbase/assert.h>

#include "planted.h"

enum {
    /* Frames in flight at a crash lie within this distance behind the first that is missing, */
    FLIGHT_BYTES_MAX = 32 * 1024 * 1024,
    /* and the first of them within this one behind its end, where nothing is damaged: more than the
     * largest request. */
    LOOK_BYTES = 10 * 1024 * 1024
};

static enum q_err recover_at_gap(
    struct ql_recover *recover, struct ql_scan *scan, enum ql_scan_state state);
static bool is_untouched(enum ql_scan_state state);
static bool recover_look(
    const struct ql_recover *recover,
    enum ql_scan_state state,
    struct ql_scan *ahead,
    uint64_t *ret_until);
static uint64_t recover_torn_bytes(const struct ql_scan *scan, enum ql_scan_state state);

enum q_err
ql_recover(struct ql_recover *recover)
{
    ql_recover_begin(recover);
    enum q_err err;
    while ((err = ql_recover_next(recover)) == Q_OK) {
        if (recover->on_frame != NULL) err = recover->on_frame(recover->context, &recover->scan);
        if (err != Q_OK) break;
    }
    ql_recover_end(recover);
    return err == Q_END ? Q_OK : err;
}

void
ql_recover_begin(struct ql_recover *recover)
{
    ql_scan_init(&recover->scan, recover->env, recover->segments, recover->from);
    recover->scan.end = recover->marks.end;
    recover->scan.since = recover->since;
    recover->scan.linked = recover->linked;
    recover->scan.chain = recover->chain;
    recover->scan.wall_ms = recover->wall_ms;
    recover->scan.generation = recover->generation;
    recover->durable = recover->marks.durable;
    if (recover->live) recover->scan.limit = recover->marks.durable;
    recover->end = recover->from;
}

enum q_err
ql_recover_next(struct ql_recover *recover)
{
    struct ql_scan *scan = &recover->scan;
    for (;;) {
        scan->payloads_above = recover->deep ? 0 : recover->durable;
        enum ql_scan_state state = ql_scan_next(scan);
        if (state == QL_SCAN_FRAME) {
            const struct ql_frame *frame = &scan->frame;
            recover->frames++;
            recover->records += frame->record_count;
            recover->durable = q_max_u64(recover->durable, frame->durable);
            recover->generation = q_max_u64(recover->generation, frame->generation);
            recover->sealed = frame->last;
            recover->unread = 0;
            return Q_OK;
        }
        if (state == QL_SCAN_NEWER)
            return Q_FAIL(
                Q_E_VERSION, .path = recover->env->path, .position = (int64_t)scan->position,
                .what = q_text("the %s log was written by a newer version", recover->log));
        /* What can't be read now may be there all the same: not an end, and nothing to write over. */
        bool needed =
            scan->position >= recover->durable || (recover->whole && !QL_PLANTED(unread_passed));
        if (state == QL_SCAN_READ && (needed || scan->error != EIO))
            return ql_scan_fail(scan, recover->log);
        Q_TRY(recover_at_gap(recover, scan, state));
    }
}

void
ql_recover_end(struct ql_recover *recover)
{
    recover->end = recover->scan.position;
    recover->chain = recover->scan.chain;
    recover->wall_ms = recover->scan.wall_ms;
    ql_scan_fini(&recover->scan);
}

/* Q_OK: the scan goes on behind a range of rot. Q_END: the log ends where the scan stands. Else it can't be
 * told. */
static enum q_err
recover_at_gap(struct ql_recover *recover, struct ql_scan *scan, enum ql_scan_state state)
{
    uint64_t gap = scan->position;
    if (recover->live && gap >= recover->marks.durable) return Q_END;
    if (recover->clean && gap == recover->marks.end) return Q_END;
    /* A log that fills its last segment, or was never written. */
    if (state == QL_SCAN_LIMIT && gap >= recover->durable &&
        ql_segment_set_next(recover->segments, gap) == NULL)
        return Q_END;

    /* Whole frames behind the gap may know a newer durable mark. */
    struct ql_scan ahead = *scan;
    ahead.linked = false;
    ahead.unread = UINT64_MAX;
    uint64_t until;
    bool found = recover_look(recover, state, &ahead, &until);
    uint64_t next = ahead.position;
    uint64_t durable = recover->durable;
    bool more = found;
    while (more) {
        if (ql_scan_next(&ahead) == QL_SCAN_FRAME)
            durable = q_max_u64(durable, ahead.frame.durable);
        else
            more = ql_scan_search(&ahead, until);
    }
    recover->durable = durable;
    /* A frame that can't be read may be there, and know a newer mark. Not so where nothing was ever written. */
    bool unseen = ahead.unread != UINT64_MAX && (gap < durable || !is_untouched(state));
    if (unseen && recover->whole && !QL_PLANTED(unread_ahead_passed)) {
        scan->position = ahead.unread;
        scan->error = EIO;
        return ql_scan_fail(scan, recover->log);
    }
    if (gap >= durable || QL_PLANTED(cut_at_damage)) {
        recover->torn_bytes = found ? ahead.position - gap : recover_torn_bytes(scan, state);
        /* What was there when the log was said to end here was told then. */
        uint64_t generation = found ? ahead.frame.generation : scan->frame.generation;
        bool header = found || state == QL_SCAN_RECORDS || state == QL_SCAN_PAYLOAD;
        if (gap == recover->marks.end && (!header || generation < recover->since))
            recover->torn_bytes = 0;
        return Q_END;
    }
    /* Rot. Go on at the next whole frame below the mark, or at the mark itself. */
    uint64_t to = q_min_u64(found && next < durable ? next : durable, scan->limit);
    recover->rot_bytes += to - gap;
    QL_TELL(
        recover->env, ROT, .log = recover->log, .path = recover->env->path, .position = gap,
        .bytes = to - gap,
        .text = q_text(
            "damaged below the durable mark %llu: %s", (unsigned long long)durable,
            ql_scan_state_text(state)));
    /* What could not be read ahead is not known to be rot. */
    if (recover->on_rot != NULL)
        recover->on_rot(recover->context, gap, to, unseen ? QL_SCAN_READ : state);
    /* Records are right where a payload alone is not, and later frames build on them. Its hash keeps
     * it from whoever would read it; at the next start this frame is below the mark from the
     * beginning, and its payloads are not looked at. */
    bool below = gap + ql_frame_size(scan->frame.body_length) <= durable;
    if (state == QL_SCAN_PAYLOAD && below && !recover->deep) return Q_OK;
    if (state == QL_SCAN_READ) recover->unread = gap;
    scan->position = to;
    scan->linked = false;
    return Q_OK;
}

/* Nothing of the log's last flight is there: what most logs end with. */
static bool
is_untouched(enum ql_scan_state state)
{
    return state == QL_SCAN_ZERO || state == QL_SCAN_STALE || state == QL_SCAN_LIMIT;
}

/*
 * The first whole frame behind the gap, where `ahead` stands. Where the end is untouched there is only
 * something further on, up to `until`, if there is something near: most ends have nothing behind them,
 * and a start waits for each byte that is looked at. Behind damage all of it is looked at.
 */
static bool
recover_look(
    const struct ql_recover *recover,
    enum ql_scan_state state,
    struct ql_scan *ahead,
    uint64_t *ret_until)
{
    uint64_t gap = ahead->position;
    bool header = state == QL_SCAN_RECORDS || state == QL_SCAN_PAYLOAD;
    uint64_t near = gap + LOOK_BYTES + (header ? ql_frame_size(ahead->frame.body_length) : 0);
    near = q_min_u64(q_max_u64(recover->durable, near), ahead->limit);
    uint64_t flight = recover->flight_bytes == 0 ? FLIGHT_BYTES_MAX : recover->flight_bytes;
    uint64_t far = q_min_u64(q_max_u64(recover->durable, gap + flight), ahead->limit);
    *ret_until = QL_PLANTED(look_is_short) ? near : q_max_u64(near, far);
    if (!is_untouched(state)) near = *ret_until;
    ahead->ahead = near;
    bool found = ql_scan_search(ahead, near);
    ahead->ahead = UINT64_MAX;
    return found;
}

/* How much was there behind the end, when no whole frame follows. */
static uint64_t
recover_torn_bytes(const struct ql_scan *scan, enum ql_scan_state state)
{
    switch (state) {
    case QL_SCAN_RECORDS:
    case QL_SCAN_PAYLOAD:
        return ql_frame_size(scan->frame.body_length);
    case QL_SCAN_FOREIGN:
    case QL_SCAN_GARBAGE:
    case QL_SCAN_READ:
        return QL_BLOCK;
    default:
        /* Zeros, and frames of earlier times: nothing of this log's last flight. */
        return 0;
    }
}
