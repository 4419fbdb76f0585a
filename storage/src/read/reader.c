#include "read/reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/clock.h>
#include <qbatch/batch.h>

#include "planted.h"

enum {
    READ_BYTES_MAX = 1024 * 1024,
    GAP_BYTES_MAX = 64 * 1024, /* to read over costs less than a read of its own */
    DEPTH = 4,                 /* reads under way */
    GENTLE_BYTES = 64 * 1024,  /* under way, beside writes: a fraction of a millisecond */
};
#define GENTLE_NS ((uint64_t)Q_NS_PER_S)
#define KEEP_NS   (10 * (uint64_t)Q_NS_PER_S) /* what nobody looks at is given up */
#define RETRY_NS  ((uint64_t)Q_NS_PER_S)

enum part_name {
    PART_FRAME,
    PART_ENVELOPE,
    PART_PAYLOAD,
    PARTS
};

struct part {
    struct q_list link; /* in ql_read.parts */
    struct ql_want *want;
    struct ql_kept *kept; /* pinned; NULL: not there */
};

struct ql_want {
    struct ql_job job;
    struct q_list link; /* free, or arrived */
    struct ql_want *next;
    struct ql_reader *reader;
    uint32_t subject_id;
    struct ql_entry entry;
    uint64_t incarnation;
    bool whole;
    bool alone; /* the second try */
    uint8_t missing;
    struct part parts[PARTS];
    int error; /* negative errno */
    bool right;
};

struct ql_read {
    struct ql_transfer transfer;
    struct q_list link; /* free */
    struct ql_reader *reader;
    uint64_t from;
    uint64_t to;
    struct ql_segment *segment; /* pinned while it is under way */
    struct ql_kept *kept;
    uint32_t share; /* of the reader's bytes under way */
    struct q_list parts;
    bool alone;
};

static const struct ql_bad *bad_find(const struct ql_reader *reader, uint64_t at);
static void bad_add(struct ql_reader *reader, const struct ql_want *want, enum q_err err);
static struct ql_want *want_find(const struct ql_reader *reader, uint64_t at, bool whole);
static struct ql_want *want_new(
    struct ql_reader *reader, uint32_t subject_id, const struct ql_entry *entry, bool whole);
static bool want_start(struct ql_reader *reader, struct ql_want *want);
static bool part_start(
    struct ql_reader *reader,
    const struct ql_segment *segment,
    struct part *part,
    uint64_t position,
    uint64_t size);
static void want_drop_parts(struct ql_want *want);
static void want_end(struct ql_reader *reader, struct ql_want *want);
static struct ql_read *read_for(
    struct ql_reader *reader,
    const struct ql_segment *segment,
    uint64_t from,
    uint64_t to,
    bool alone);
static uint32_t queued_behind(const struct ql_reader *reader, uint64_t position);
static bool read_may_grow(
    const struct ql_read *read, const struct ql_segment *segment, uint64_t from, uint64_t to);
static uint32_t read_share(const struct ql_reader *reader, const struct ql_read *read);
static void read_on_done(struct ql_transfer *transfer);
static void read_end(struct ql_read *read, int error);
static void turn_give(struct ql_reader *reader);
static void want_check(struct ql_job *job);
static void want_on_checked(struct ql_job *job);
static bool want_is_right(const struct ql_want *want);
static void want_judge(struct ql_reader *reader, struct ql_want *want);
static void want_mark(struct ql_want *want);

static uint64_t
envelope_of(const struct ql_entry *entry)
{
    return entry->frame + entry->envelope_at;
}

static uint64_t
payload_of(const struct ql_entry *entry)
{
    return entry->frame + entry->payload_at;
}

static struct ql_want **
bucket_of(struct ql_reader *reader, uint64_t at)
{
    return &reader->buckets[at / 8 % QL_WANT_BUCKETS];
}

void
ql_reader_init(
    struct ql_reader *reader, struct ql_log *log, const struct ql_reader_options *options)
{
    *reader = (struct ql_reader){ .log = log, .options = *options, .depth = DEPTH };
    ql_keep_init(&reader->keep, options->tail_bytes, options->read_bytes);
    ql_worker_init(&reader->worker, log->env->io, options->threaded);
    q_list_init(&reader->free_wants);
    q_list_init(&reader->arrived);
    q_list_init(&reader->free_reads);
}

void
ql_reader_fini(struct ql_reader *reader)
{
    struct qlog_io *io = reader->log->env->io;
    while (reader->under_way > 0)
        if (io->table->enter(io, Q_NS_PER_MS) < 0) break;
    Q_ASSERT(reader->under_way == 0);
    for (uint32_t i = 0; i < reader->wants_used; i++)
        want_drop_parts(&reader->wants[i]);
    free(reader->wants);
    free(reader->reads);
    ql_keep_fini(&reader->keep);
    reader->log = NULL;
}

/* --- What is asked for. */

enum q_err
ql_reader_get(
    struct ql_reader *reader,
    const struct ql_entry *entry,
    bool whole,
    struct ql_batch_view *ret_view)
{
    const struct ql_log *log = reader->log;
    uint64_t at = envelope_of(entry);
    const struct ql_bad *bad = reader->bad_count == 0 ? NULL : bad_find(reader, at);
    if (bad != NULL && reader->now_ns < bad->until_ns) {
        if (bad->err == Q_E_CORRUPT) return Q_E_CORRUPT;
        return Q_FAIL(
            bad->err, .path = log->env->path, .position = at, .sys = -bad->sys,
            .what = q_text(
                "messages %llu to %llu can not be read", (unsigned long long)entry->first_sequence,
                (unsigned long long)ql_entry_end(entry) - 1));
    }
    if (log->tail - entry->frame <= reader->keep.bytes_max[QL_KEEP_TAIL]) ql_reader_expect(reader);
    const struct ql_kept *envelope = ql_keep_find_checked(&reader->keep, at, entry->envelope_size);
    if (envelope == NULL) return Q_AGAIN;
    struct ql_batch_view view = {
        .envelope = ql_kept_at(envelope, at),
        .blocks = { envelope->block, envelope->block },
        .fetched = envelope->block->kind == QL_KEEP_FETCHED,
    };
    if (whole) {
        at = payload_of(entry);
        const struct ql_kept *payload =
            ql_keep_find_checked(&reader->keep, at, entry->payload_size);
        if (payload == NULL) return Q_AGAIN;
        view.payload = ql_kept_at(payload, at);
        view.blocks[1] = payload->block;
    }
    *ret_view = view;
    return Q_OK;
}

enum ql_wanted
ql_reader_want(
    struct ql_reader *reader, uint32_t subject_id, const struct ql_entry *entry, bool whole)
{
    if (want_find(reader, envelope_of(entry), whole) != NULL) return QL_WANTED_BEFORE;
    struct ql_want *want = want_new(reader, subject_id, entry, whole);
    if (want == NULL) return QL_WANTED_NOT;
    if (want_start(reader, want)) return QL_WANTED;
    want_end(reader, want);
    return QL_WANTED_NOT;
}

static const struct ql_bad *
bad_find(const struct ql_reader *reader, uint64_t at)
{
    for (uint32_t i = 0; i < reader->bad_count; i++)
        if (reader->bad[i].at == at) return &reader->bad[i];
    return NULL;
}

static void
bad_add(struct ql_reader *reader, const struct ql_want *want, enum q_err err)
{
    uint64_t at = envelope_of(&want->entry);
    uint32_t i = 0;
    while (i < reader->bad_count && reader->bad[i].at != at)
        i++;
    bool known = i < reader->bad_count && reader->bad[i].err == err;
    /* The oldest is forgotten: it is looked at, and told, again. */
    if (i == QL_BAD_MAX) i = reader->bad_next++ % QL_BAD_MAX;
    if (i == reader->bad_count) reader->bad_count++;
    reader->bad[i] = (struct ql_bad){
        .at = at,
        .err = err,
        .sys = want->error,
        .until_ns = err == Q_E_CORRUPT ? UINT64_MAX : reader->now_ns + RETRY_NS,
    };
    if (!known)
        reader->options.on_bad(
            reader->options.context, want->subject_id, &want->entry, err, -want->error);
}

static struct ql_want *
want_find(const struct ql_reader *reader, uint64_t at, bool whole)
{
    struct ql_want *want = reader->buckets[at / 8 % QL_WANT_BUCKETS];
    while (want != NULL && (envelope_of(&want->entry) != at || want->whole < whole))
        want = want->next;
    return want;
}

static struct ql_want *
want_new(struct ql_reader *reader, uint32_t subject_id, const struct ql_entry *entry, bool whole)
{
    struct ql_want *want;
    struct q_list *link = q_list_pop_front(&reader->free_wants);
    if (link != NULL) {
        want = q_container_of(link, struct ql_want, link);
    } else {
        if (reader->wants == NULL) reader->wants = calloc(QL_WANTS_MAX, sizeof(struct ql_want));
        if (reader->wants == NULL || reader->wants_used == QL_WANTS_MAX) return NULL;
        want = &reader->wants[reader->wants_used++];
    }
    struct ql_want **bucket = bucket_of(reader, envelope_of(entry));
    *want = (struct ql_want){
        .job = { .run = want_check, .done = want_on_checked },
        .next = *bucket,
        .reader = reader,
        .subject_id = subject_id,
        .entry = *entry,
        .whole = whole,
    };
    *bucket = want;
    q_list_init(&want->link);
    q_list_init(&want->job.link);
    for (unsigned i = 0; i < PARTS; i++) {
        q_list_init(&want->parts[i].link);
        want->parts[i].want = want;
    }
    return want;
}

/* Look for its parts, or add them to reads. False: there is no read left. */
static bool
want_start(struct ql_reader *reader, struct ql_want *want)
{
    const struct ql_entry *entry = &want->entry;
    const struct ql_segment *segment = ql_segment_set_find(&reader->log->segments, entry->frame);
    want->error = 0;
    if (segment == NULL || entry->frame + entry->frame_size > ql_segment_limit(segment)) {
        /* It went with its segment: whoever asks again finds that the index knows. */
        want->error = -ENOENT;
        q_list_push_back(&reader->arrived, &want->link);
        return true;
    }
    want->incarnation = segment->incarnation;
    bool started =
        part_start(reader, segment, &want->parts[PART_FRAME], entry->frame, QL_FRAME_HEADER_SIZE);
    started = started && part_start(
                             reader, segment, &want->parts[PART_ENVELOPE], envelope_of(entry),
                             entry->envelope_size);
    if (want->whole)
        started = started && part_start(
                                 reader, segment, &want->parts[PART_PAYLOAD], payload_of(entry),
                                 entry->payload_size);
    if (!started) {
        want_drop_parts(want);
        return false;
    }
    if (want->missing == 0) q_list_push_back(&reader->arrived, &want->link);
    return true;
}

static bool
part_start(
    struct ql_reader *reader,
    const struct ql_segment *segment,
    struct part *part,
    uint64_t position,
    uint64_t size)
{
    struct ql_want *want = part->want;
    struct ql_kept *kept = want->alone ? NULL : ql_keep_find(&reader->keep, position, size);
    if (kept != NULL && kept->filler == NULL) {
        ql_keep_pin(kept->block);
        part->kept = kept;
        return true;
    }
    struct ql_read *read = kept != NULL ? kept->filler : NULL;
    if (read == NULL) {
        uint64_t from = position - position % QL_BLOCK;
        read = read_for(reader, segment, from, q_align_up(position + size, QL_BLOCK), want->alone);
    }
    if (read == NULL) return false;
    q_list_push_back(&read->parts, &part->link);
    want->missing++;
    return true;
}

/* Of a want that does not wait for the worker. */
static void
want_drop_parts(struct ql_want *want)
{
    for (unsigned i = 0; i < PARTS; i++) {
        struct part *part = &want->parts[i];
        q_list_remove(&part->link);
        if (part->kept != NULL) ql_keep_unpin(part->kept->block);
        part->kept = NULL;
    }
    want->missing = 0;
}

static void
want_end(struct ql_reader *reader, struct ql_want *want)
{
    want_drop_parts(want);
    struct ql_want **at = bucket_of(reader, envelope_of(&want->entry));
    while (*at != want)
        at = &(*at)->next;
    *at = want->next;
    q_list_push_front(&reader->free_wants, &want->link);
}

/* --- Reads. */

/* One that is queued and can take [from, to) along, or a new one. NULL: there are too many. */
static struct ql_read *
read_for(
    struct ql_reader *reader,
    const struct ql_segment *segment,
    uint64_t from,
    uint64_t to,
    bool alone)
{
    uint32_t at = queued_behind(reader, from);
    for (uint32_t i = at > 0 ? at - 1 : 0; !alone && i <= at && i < reader->queued_count; i++) {
        struct ql_read *read = reader->queued[i];
        if (!read_may_grow(read, segment, from, to)) continue;
        read->from = q_min_u64(read->from, from);
        read->to = q_max_u64(read->to, to);
        return read;
    }
    if (reader->queued_count == QL_READS_MAX) return NULL;
    struct ql_read *read;
    struct q_list *link = q_list_pop_front(&reader->free_reads);
    if (link != NULL) {
        read = q_container_of(link, struct ql_read, link);
    } else {
        if (reader->reads == NULL) reader->reads = calloc(QL_READS_MAX, sizeof(struct ql_read));
        if (reader->reads == NULL || reader->reads_used == QL_READS_MAX) return NULL;
        read = &reader->reads[reader->reads_used++];
    }
    *read = (struct ql_read){ .reader = reader, .from = from, .to = to, .alone = alone };
    q_list_init(&read->link);
    q_list_init(&read->parts);
    memmove(
        reader->queued + at + 1, reader->queued + at,
        (reader->queued_count - at) * sizeof(struct ql_read *));
    reader->queued[at] = read;
    reader->queued_count++;
    return read;
}

/* The first that begins behind `position`. */
static uint32_t
queued_behind(const struct ql_reader *reader, uint64_t position)
{
    uint32_t low = 0;
    uint32_t high = reader->queued_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (reader->queued[middle]->from <= position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool
read_may_grow(
    const struct ql_read *read, const struct ql_segment *segment, uint64_t from, uint64_t to)
{
    if (read->alone) return false;
    if (read->from < segment->base || read->to > ql_segment_limit(segment)) return false;
    if (from > read->to + GAP_BYTES_MAX || read->from > to + GAP_BYTES_MAX) return false;
    uint64_t size = q_max_u64(read->to, to) - q_min_u64(read->from, from);
    return size <= READ_BYTES_MAX || (from >= read->from && to <= read->to);
}

void
ql_reader_submit(struct ql_reader *reader)
{
    struct ql_log *log = reader->log;
    while (reader->queued_count > 0 && reader->under_way < reader->depth) {
        /* On in the direction of the log, and from its beginning again. */
        uint32_t at = reader->swept == 0 ? 0 : queued_behind(reader, reader->swept - 1);
        if (at == reader->queued_count) at = 0;
        struct ql_read *read = reader->queued[at];
        struct ql_segment *segment = ql_segment_set_find(&log->segments, read->from);
        bool there = segment != NULL && read->to <= ql_segment_limit(segment);
        bool idle = reader->under_way == 0 && reader->checking == 0;
        read->share = read_share(reader, read);
        if (read->share == 0) return;
        if (there) {
            read->kept = ql_keep_add(
                &reader->keep, QL_KEEP_FETCHED, read->from, read->to - read->from, read, idle);
            /* Room comes when a read that is under way has been used. */
            if (read->kept == NULL && !idle) return;
        }
        reader->queued_count--;
        memmove(
            reader->queued + at, reader->queued + at + 1,
            (reader->queued_count - at) * sizeof(struct ql_read *));
        reader->swept = read->from;
        if (read->kept == NULL) {
            read_end(read, there ? -ENOMEM : -ENOENT);
            continue;
        }
        ql_keep_pin(read->kept->block);
        if (!QL_PLANTED(read_unpinned)) ql_segment_pin(segment);
        read->segment = segment;
        reader->under_way++;
        reader->bytes_under_way += read->share;
        reader->read_count++;
        reader->read_bytes += read->to - read->from;
        read->transfer = (struct ql_transfer){
            .op = {
                .kind = QLOG_IO_READ,
                .file = segment->file,
                .buffer = -1,
                .data = read->kept->data,
                .length = (uint32_t)(read->to - read->from),
                .at = ql_segment_offset(segment, read->from),
            },
            .done = read_on_done,
            .piece = read->share,
        };
        ql_transfer_submit(log->env->io, &read->transfer);
    }
}

/* How much of it the disk is given at a time. 0: nothing now, others are under way. */
static uint32_t
read_share(const struct ql_reader *reader, const struct ql_read *read)
{
    uint64_t size = read->to - read->from;
    if (reader->now_ns >= reader->gentle_until_ns || QL_PLANTED(reads_unpaced))
        return (uint32_t)size;
    uint32_t share = (uint32_t)q_min_u64(size, GENTLE_BYTES);
    bool room = reader->under_way == 0 || reader->bytes_under_way + share <= GENTLE_BYTES;
    return room ? share : 0;
}

static void
read_on_done(struct ql_transfer *transfer)
{
    struct ql_read *read = q_container_of(transfer, struct ql_read, transfer);
    struct ql_reader *reader = read->reader;
    reader->under_way--;
    reader->bytes_under_way -= read->share;
    if (!QL_PLANTED(read_unpinned)) ql_segment_unpin(read->segment);
    int error = transfer->error;
    /* A file that was cut. */
    if (error == 0 && transfer->moved < transfer->length) error = -EIO;
    if (QL_PLANTED(read_error_ignored)) error = 0;
    if (error == 0)
        read->kept->filler = NULL;
    else
        ql_keep_forget(&reader->keep, read->kept);
    struct ql_keep_block *block = read->kept->block;
    read_end(read, error);
    ql_keep_unpin(block);
}

/* Its parts are there, or are not. */
static void
read_end(struct ql_read *read, int error)
{
    struct ql_reader *reader = read->reader;
    struct q_list *link;
    while ((link = q_list_pop_front(&read->parts)) != NULL) {
        struct part *part = q_container_of(link, struct part, link);
        struct ql_want *want = part->want;
        if (error == 0) {
            ql_keep_pin(read->kept->block);
            part->kept = read->kept;
        } else {
            want->error = error;
        }
        if (--want->missing == 0) q_list_push_back(&reader->arrived, &want->link);
    }
    q_list_push_front(&reader->free_reads, &read->link);
}

/* --- Turns. */

void
ql_reader_turn(struct ql_reader *reader, uint64_t now_ns)
{
    reader->now_ns = now_ns;
    reader->keep.now_ns = now_ns;
    ql_worker_collect(&reader->worker);
    if (!q_list_is_empty(&reader->arrived)) {
        turn_give(reader);
        /* Without a thread they are done. */
        ql_worker_collect(&reader->worker);
    }
    if (now_ns < reader->shrink_ns) return;
    reader->shrink_ns = now_ns + Q_NS_PER_S;
    if (now_ns > KEEP_NS) ql_keep_shrink(&reader->keep, now_ns - KEEP_NS);
}

bool
ql_reader_is_due(const struct ql_reader *reader)
{
    return ql_worker_is_due(&reader->worker) || !q_list_is_empty(&reader->arrived);
}

bool
ql_reader_is_busy(const struct ql_reader *reader)
{
    return reader->queued_count + reader->under_way + reader->checking > 0 ||
           ql_reader_is_due(reader);
}

static void
turn_give(struct ql_reader *reader)
{
    struct q_list jobs;
    q_list_init(&jobs);
    struct q_list arrived;
    q_list_init(&arrived);
    q_list_splice_back(&arrived, &reader->arrived);
    struct q_list *link;
    while ((link = q_list_pop_front(&arrived)) != NULL) {
        struct ql_want *want = q_container_of(link, struct ql_want, link);
        if (want->error != 0) {
            want_judge(reader, want);
            continue;
        }
        q_list_push_back(&jobs, &want->job.link);
        reader->checking++;
    }
    ql_worker_give(&reader->worker, &jobs);
}

/* On the worker's thread: the want and its parts do not change meanwhile. */
static void
want_check(struct ql_job *job)
{
    struct ql_want *want = q_container_of(job, struct ql_want, job);
    want->right = want_is_right(want) || QL_PLANTED(read_unchecked);
}

static void
want_on_checked(struct ql_job *job)
{
    struct ql_want *want = q_container_of(job, struct ql_want, job);
    want->reader->checking--;
    want_judge(want->reader, want);
}

static bool
want_is_right(const struct ql_want *want)
{
    const struct ql_entry *entry = &want->entry;
    struct ql_frame frame;
    const uint8_t *at = ql_kept_at(want->parts[PART_FRAME].kept, entry->frame);
    if (ql_frame_decode(at, &frame) != QL_BLOCK_GOOD) return false;
    if (frame.position != entry->frame || frame.incarnation != want->incarnation ||
        ql_frame_size(frame.body_length) != entry->frame_size)
        return false;
    /* The producer's hash does not cover what the broker wrote: that is known otherwise. */
    at = ql_kept_at(want->parts[PART_ENVELOPE].kept, envelope_of(entry));
    struct qbatch batch;
    if (qbatch_open(q_bytes_from(at, entry->envelope_size), &batch) != Q_OK) return false;
    bool same =
        q_load_le16(at + QBATCH_RECORD_KIND) == QBATCH_RECORD_KIND_BATCH &&
        q_load_le16(at + QBATCH_RECORD_FLAGS) == 0 &&
        q_load_le32(at + QBATCH_RECORD_LENGTH) == batch.envelope_length &&
        q_load_le32(at + QBATCH_PREFIX_ZERO) == 0 &&
        batch.envelope_length == entry->envelope_size && batch.subject_id == want->subject_id &&
        batch.first_sequence == entry->first_sequence && batch.store_time_ms == frame.wall_ms &&
        batch.message_count == entry->count && batch.payload_padded_length == entry->payload_size;
    if (!same || !want->whole) return same;
    at = ql_kept_at(want->parts[PART_PAYLOAD].kept, payload_of(entry));
    return qbatch_check_payload(&batch, at) == Q_OK;
}

/* Both tries end here. */
static void
want_judge(struct ql_reader *reader, struct ql_want *want)
{
    bool gone = want->error == -ENOENT;
    bool right = want->error == 0 && want->right;
    if (right) want_mark(want);
    if (!right && !gone && !want->alone) {
        for (unsigned i = 0; i < PARTS; i++)
            if (want->parts[i].kept != NULL) ql_keep_forget(&reader->keep, want->parts[i].kept);
        want_drop_parts(want);
        want->alone = true;
        if (want_start(reader, want)) return;
        /* All reads are taken: whoever wants it will want it again. */
    } else if (!right && !gone) {
        enum q_err err = want->error == 0 ? Q_E_CORRUPT : q_err_from_errno(-want->error);
        bad_add(reader, want, err);
    }
    uint32_t subject_id = want->subject_id;
    want_end(reader, want);
    reader->options.on_news(reader->options.context, subject_id);
}

static void
want_mark(struct ql_want *want)
{
    ql_kept_set_checked(want->parts[PART_ENVELOPE].kept, envelope_of(&want->entry));
    if (want->whole) ql_kept_set_checked(want->parts[PART_PAYLOAD].kept, payload_of(&want->entry));
}

/* --- What is being written. */

void
ql_reader_expect(struct ql_reader *reader)
{
    reader->tail_until_ns = reader->now_ns + KEEP_NS;
}

void
ql_reader_on_frame(void *context, uint64_t position, const uint8_t *data, uint64_t size)
{
    struct ql_reader *reader = context;
    reader->gentle_until_ns = reader->now_ns + GENTLE_NS;
    if (reader->now_ns >= reader->tail_until_ns) return;
    struct ql_kept *kept = ql_keep_add(&reader->keep, QL_KEEP_TAIL, position, size, NULL, false);
    if (kept != NULL) memcpy(kept->data, data, size);
}
