#include "segment/scan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "format/record.h"
#include "io/transfer.h"
#include "planted.h"

static enum ql_scan_state scan_check(struct ql_scan *scan, const struct ql_segment *segment);
static enum ql_scan_state scan_check_body(struct ql_scan *scan, const uint8_t *body);
static bool scan_load(
    struct ql_scan *scan,
    const struct ql_segment *segment,
    uint64_t position,
    uint64_t size,
    const uint8_t **ret_data);
static bool scan_is_frame_at(
    struct ql_scan *scan, const struct ql_segment *segment, uint64_t position);

void
ql_scan_init(
    struct ql_scan *scan,
    struct ql_env *env,
    const struct ql_segment_set *segments,
    uint64_t position)
{
    memset(scan, 0, sizeof(*scan));
    scan->env = env;
    scan->segments = segments;
    scan->position = position;
    scan->limit = UINT64_MAX;
    scan->ahead = UINT64_MAX;
    scan->end = UINT64_MAX;
    scan->unread = UINT64_MAX;
}

void
ql_scan_fini(struct ql_scan *scan)
{
    if (scan->window == NULL) return;
    ql_window_fini(scan->window);
    free(scan->window);
    scan->window = NULL;
}

/* Before any copy of the scan is made that looks at bytes. */
static bool
scan_need_window(struct ql_scan *scan)
{
    if (scan->window != NULL) return true;
    scan->window = malloc(sizeof(*scan->window));
    scan->error = ENOMEM;
    if (scan->window == NULL) return false;
    ql_window_init(scan->window, scan->env->io);
    return true;
}

enum ql_scan_state
ql_scan_next(struct ql_scan *scan)
{
    if (!scan_need_window(scan)) return QL_SCAN_READ;
    const struct ql_segment *segment = ql_segment_set_find(scan->segments, scan->position);
    if (segment == NULL || scan->position + QL_BLOCK > ql_segment_limit(segment) ||
        scan->position >= scan->limit)
        return QL_SCAN_LIMIT;
    /* The first frame of a log whose head was dropped: its segment knows the link. */
    if (!scan->linked && scan->position == segment->base) {
        scan->chain = segment->chain;
        scan->linked = true;
    }
    enum ql_scan_state state = scan_check(scan, segment);
    for (unsigned i = 1; i < QL_READ_TRIES && state == QL_SCAN_READ && scan->error == EIO; i++)
        state = scan_check(scan, segment);
    if (state != QL_SCAN_FRAME) return state;
    scan->position += ql_frame_size(scan->frame.body_length);
    scan->chain = scan->frame.hash;
    scan->linked = true;
    scan->generation = scan->frame.generation;
    scan->wall_ms = scan->frame.wall_ms;
    return QL_SCAN_FRAME;
}

static enum ql_scan_state
scan_check(struct ql_scan *scan, const struct ql_segment *segment)
{
    const uint8_t *block;
    if (!scan_load(scan, segment, scan->position, QL_BLOCK, &block)) return QL_SCAN_READ;
    struct ql_frame frame;
    switch (ql_frame_decode(block, &frame)) {
    case QL_BLOCK_GOOD:
        break;
    case QL_BLOCK_NEWER:
        return QL_SCAN_NEWER;
    case QL_BLOCK_ZERO:
        return q_is_zero(block, QL_BLOCK) ? QL_SCAN_ZERO : QL_SCAN_GARBAGE;
    default:
        return QL_SCAN_GARBAGE;
    }
    bool mine = frame.incarnation == segment->incarnation || QL_PLANTED(incarnation_unchecked);
    bool here = (mine && frame.position == scan->position) || QL_PLANTED(frame_anywhere);
    if (!here && frame.incarnation < segment->incarnation) return QL_SCAN_STALE;
    if (!here) return QL_SCAN_FOREIGN;
    /* Behind a stated end its predecessor may be the one that is damaged. */
    bool old = frame.generation < scan->generation ||
               (frame.position >= scan->end && frame.generation < scan->since);
    if (old && !QL_PLANTED(orphan_counts)) return QL_SCAN_ORPHAN;
    bool follows = !scan->linked || frame.previous == scan->chain || QL_PLANTED(chain_unchecked);
    if (!follows) return QL_SCAN_ORPHAN;
    uint64_t size = ql_frame_size(frame.body_length);
    if (size > ql_segment_limit(segment) - scan->position) return QL_SCAN_GARBAGE;
    if (scan->limit - scan->position < size) return QL_SCAN_LIMIT;

    const uint8_t *data;
    if (!scan_load(scan, segment, scan->position, size, &data)) return QL_SCAN_READ;
    scan->frame = frame;
    return scan_check_body(scan, data + QL_FRAME_HEADER_SIZE);
}

static enum ql_scan_state
scan_check_body(struct ql_scan *scan, const uint8_t *body)
{
    const struct ql_frame *frame = &scan->frame;
    bool whole = ql_hash(body, frame->records_length) == frame->records_hash;
    if (!whole && !QL_PLANTED(records_unchecked)) return QL_SCAN_RECORDS;
    scan->records = q_bytes_from(body, frame->records_length);
    scan->payloads =
        q_bytes_from(body + frame->records_length, frame->body_length - frame->records_length);
    bool check = frame->position + ql_frame_size(frame->body_length) > scan->payloads_above;
    if (QL_PLANTED(payload_unchecked)) check = false;
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    uint32_t count = 0;
    for (;;) {
        struct ql_record record;
        enum q_err err = ql_record_next(&walk, &record);
        if (err == Q_END) break;
        if (err != Q_OK) return QL_SCAN_RECORDS;
        count++;
        if (!check || record.payload == NULL) continue;
        struct qbatch batch;
        if (qbatch_open_trusted(record.bytes, &batch) != Q_OK) return QL_SCAN_RECORDS;
        if (qbatch_check_payload(&batch, record.payload) != Q_OK) return QL_SCAN_PAYLOAD;
    }
    return count == frame->record_count ? QL_SCAN_FRAME : QL_SCAN_RECORDS;
}

bool
ql_scan_search(struct ql_scan *scan, uint64_t until)
{
    if (!scan_need_window(scan)) return false;
    uint64_t position = scan->position + QL_BLOCK;
    while (position < until) {
        const struct ql_segment *segment = ql_segment_set_find(scan->segments, position);
        if (segment == NULL || position + QL_BLOCK > ql_segment_limit(segment)) {
            /* Nothing is stored here: on with the next segment there is. */
            segment = ql_segment_set_next(scan->segments, position);
            if (segment == NULL) return false;
            position = segment->base;
            continue;
        }
        if (scan_is_frame_at(scan, segment, position)) {
            scan->position = position;
            scan->linked = false;
            return true;
        }
        position += QL_BLOCK;
    }
    return false;
}

static bool
scan_is_frame_at(struct ql_scan *scan, const struct ql_segment *segment, uint64_t position)
{
    const uint8_t *block;
    bool is_read = scan_load(scan, segment, position, QL_BLOCK, &block);
    /* Of many, the first one is tried again: to know of one is enough. */
    bool is_first = scan->unread == UINT64_MAX;
    for (unsigned i = 1; i < QL_READ_TRIES && is_first && !is_read; i++)
        is_read = scan_load(scan, segment, position, QL_BLOCK, &block);
    if (!is_read) {
        scan->unread = q_min_u64(scan->unread, position);
        return false;
    }
    if (q_load_le32(block + QL_FRAME_MAGIC_AT) != QL_FRAME_MAGIC) return false;
    struct ql_scan probe = *scan;
    probe.position = position;
    probe.linked = false;
    probe.payloads_above = 0;
    enum ql_scan_state state = scan_check(&probe, segment);
    for (unsigned i = 1; i < QL_READ_TRIES && is_first && state == QL_SCAN_READ; i++)
        state = scan_check(&probe, segment);
    if (state == QL_SCAN_READ) scan->unread = q_min_u64(scan->unread, position);
    return state == QL_SCAN_FRAME;
}

/* `size` bytes of the segment from `position` on. */
static bool
scan_load(
    struct ql_scan *scan,
    const struct ql_segment *segment,
    uint64_t position,
    uint64_t size,
    const uint8_t **ret_data)
{
    uint64_t limit = q_min_u64(scan->limit, scan->ahead);
    int rv = ql_window_load(scan->window, segment, position, size, limit, ret_data);
    scan->error = -rv;
    return rv == 0;
}

enum q_err
ql_scan_fail(const struct ql_scan *scan, const char *log)
{
    char path[QL_PATH_MAX];
    const struct ql_segment *segment = ql_segment_set_find(scan->segments, scan->position);
    if (scan->error != EIO)
        return Q_FAIL(
            q_err_from_errno(scan->error), .path = scan->env->path,
            .position = (int64_t)scan->position, .sys = scan->error,
            .what = q_text("read the %s log", log));
    return Q_FAIL(
        Q_E_IO, .path = ql_segment_path(scan->env, log, segment->number, path),
        .position = (int64_t)ql_segment_offset(segment, scan->position), .sys = scan->error,
        .what = q_text(
            "the %s log can't be read from position %llu on, in %u tries: what lies there is not "
            "known, and would be stored, numbered or handed out twice",
            log, (unsigned long long)scan->position, (unsigned)QL_READ_TRIES),
        .hint = QL_UNREADABLE_HINT);
}

const char *
ql_scan_state_text(enum ql_scan_state state)
{
    static const char *const texts[] = {
        [QL_SCAN_FRAME] = "a frame",
        [QL_SCAN_LIMIT] = "the end of the segments",
        [QL_SCAN_ZERO] = "never written",
        [QL_SCAN_STALE] = "a frame of an earlier use",
        [QL_SCAN_FOREIGN] = "a frame of another place",
        [QL_SCAN_ORPHAN] = "a frame that does not follow the one before",
        [QL_SCAN_GARBAGE] = "no frame header",
        [QL_SCAN_RECORDS] = "a frame with damaged records",
        [QL_SCAN_PAYLOAD] = "a frame with a damaged payload",
        [QL_SCAN_NEWER] = "a frame of a newer format",
        [QL_SCAN_READ] = "unreadable",
    };
    return texts[state];
}
