#include "read/scrub.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/clock.h>
#include <qbatch/batch.h>

#include "format/record.h"
#include "planted.h"

enum {
    STEP_BYTES = 256 * 1024, /* a larger read would be felt by the writer */
};
#define WALK_NS (24 * 3600 * (uint64_t)Q_NS_PER_S)
#define BUSY_NS (100 * (uint64_t)Q_NS_PER_MS)

static struct ql_segment *scrub_segment(struct ql_scrub *scrub);
static bool scrub_grow(struct ql_scrub *scrub, uint64_t size);
static void scrub_rest(struct ql_scrub *scrub);
static void scrub_on_read(struct ql_transfer *transfer);
static void scrub_unreadable(struct ql_scrub *scrub, int error);
static void scrub_check(struct ql_job *job);
static uint64_t scrub_check_frame(struct ql_scrub *scrub, uint64_t at, bool *ret_good);
static bool frame_is_whole(const struct ql_frame *frame, const uint8_t *body);
static void scrub_on_checked(struct ql_job *job);
static void scrub_tell_rot(struct ql_scrub *scrub);

void
ql_scrub_init(
    struct ql_scrub *scrub,
    struct ql_log *log,
    struct ql_worker *worker,
    const struct ql_scrub_options *options)
{
    *scrub = (struct ql_scrub){
        .log = log,
        .worker = worker,
        .options = *options,
        .job = { .run = scrub_check, .done = scrub_on_checked },
    };
    q_list_init(&scrub->job.link);
}

void
ql_scrub_fini(struct ql_scrub *scrub)
{
    if (scrub->log == NULL) return;
    struct qlog_io *io = scrub->log->env->io;
    while (scrub->state == QL_SCRUB_READING)
        if (io->table->enter(io, Q_NS_PER_MS) < 0) break;
    free(scrub->buffer);
    scrub->log = NULL;
}

uint64_t
ql_scrub_deadline_ns(const struct ql_scrub *scrub)
{
    bool may = scrub->state == QL_SCRUB_RESTING && scrub->options.bytes_per_s != UINT64_MAX;
    /* The first segment to be sealed comes with other work. */
    return may && scrub->log->segments.count > 1 ? scrub->next_ns : UINT64_MAX;
}

void
ql_scrub_step(struct ql_scrub *scrub, uint64_t now_ns, bool busy)
{
    if (now_ns < ql_scrub_deadline_ns(scrub)) return;
    if (busy) {
        scrub->next_ns = now_ns + BUSY_NS;
        return;
    }
    if (scrub->begun_ns == 0) scrub->begun_ns = now_ns;
    struct ql_segment *segment = scrub_segment(scrub);
    if (segment == NULL) {
        scrub_rest(scrub);
        return;
    }
    uint64_t from = scrub->position + scrub->size;
    uint64_t bytes = q_min_u64(STEP_BYTES, segment->end - from);
    scrub->next_ns = now_ns + bytes * Q_NS_PER_S / scrub->options.bytes_per_s;
    if (!scrub_grow(scrub, scrub->size + bytes)) return;
    ql_segment_pin(segment);
    scrub->segment = segment;
    scrub->incarnation = segment->incarnation;
    scrub->end = segment->end;
    scrub->state = QL_SCRUB_READING;
    scrub->read = (struct ql_transfer){
        .op = {
            .kind = QLOG_IO_READ,
            .file = segment->file,
            .buffer = -1,
            .data = scrub->buffer + scrub->size,
            .length = (uint32_t)bytes,
            .at = ql_segment_offset(segment, from),
        },
        .done = scrub_on_read,
    };
    ql_transfer_submit(scrub->log->env->io, &scrub->read);
}

/* The sealed segment to go on in; NULL: there is none behind. */
static struct ql_segment *
scrub_segment(struct ql_scrub *scrub)
{
    const struct ql_segment_set *set = &scrub->log->segments;
    struct ql_segment *segment = ql_segment_set_find(set, scrub->position);
    bool same =
        segment != NULL && scrub->position < segment->end && segment->state == QL_SEGMENT_SEALED;
    if (same && scrub->position > segment->base) return segment;
    if (!same) {
        /* Behind its end, or it was dropped. */
        segment = segment == NULL ? set->segments[0] : ql_segment_set_next(set, segment->base);
        scrub->size = 0;
        scrub_tell_rot(scrub);
    }
    if (segment == NULL || segment->state != QL_SEGMENT_SEALED) return NULL;
    if (!same) scrub->again = false;
    scrub->position = segment->base;
    scrub->linked = true;
    scrub->chain = segment->chain;
    return segment;
}

static bool
scrub_grow(struct ql_scrub *scrub, uint64_t size)
{
    if (size <= scrub->capacity) return true;
    uint64_t capacity = q_align_up(q_max_u64(size, scrub->wanted), STEP_BYTES);
    uint8_t *buffer = aligned_alloc(QL_BLOCK, capacity);
    if (buffer == NULL) return false;
    if (scrub->size > 0) memcpy(buffer, scrub->buffer, scrub->size);
    free(scrub->buffer);
    scrub->buffer = buffer;
    scrub->capacity = capacity;
    return true;
}

/* A walk has come to its end. */
static void
scrub_rest(struct ql_scrub *scrub)
{
    scrub->next_ns = scrub->begun_ns + WALK_NS;
    scrub->begun_ns = 0;
    scrub->position = 0;
    scrub->size = 0;
    scrub->again = false;
    free(scrub->buffer);
    scrub->buffer = NULL;
    scrub->capacity = 0;
}

static void
scrub_on_read(struct ql_transfer *transfer)
{
    struct ql_scrub *scrub = q_container_of(transfer, struct ql_scrub, read);
    ql_segment_unpin(scrub->segment);
    scrub->state = QL_SCRUB_RESTING;
    if (transfer->error != 0) {
        scrub_unreadable(scrub, transfer->error);
        return;
    }
    scrub->size += transfer->length;
    scrub->bytes += transfer->length;
    scrub->state = QL_SCRUB_CHECKING;
    struct q_list jobs;
    q_list_init(&jobs);
    q_list_push_back(&jobs, &scrub->job.link);
    ql_worker_give(scrub->worker, &jobs);
}

/* The disk does not give the next stretch: on behind it, at the second time. */
static void
scrub_unreadable(struct ql_scrub *scrub, int error)
{
    if (!scrub->again) {
        scrub->again = true;
        return;
    }
    scrub_tell_rot(scrub);
    uint64_t from = scrub->position + scrub->size;
    uint64_t bytes = scrub->read.length;
    scrub->options.on_bad(scrub->options.context, from, bytes, q_err_from_errno(-error), -error);
    scrub->position = from + bytes;
    scrub->size = 0;
    scrub->linked = false;
    scrub->again = false;
}

/* On the worker's thread. Up to the first frame that is not complete, or the end of the damage. */
static void
scrub_check(struct ql_job *job)
{
    struct ql_scrub *scrub = q_container_of(job, struct ql_scrub, job);
    scrub->used = 0;
    scrub->wanted = 0;
    scrub->bad_from = 0;
    scrub->bad_to = 0;
    while (scrub->size - scrub->used >= QL_BLOCK) {
        bool good = true;
        bool linked = scrub->linked;
        uint64_t chain = scrub->chain;
        uint64_t bytes = scrub_check_frame(scrub, scrub->used, &good);
        if (bytes == 0) return;
        good = good || QL_PLANTED(scrub_blind);
        uint64_t position = scrub->position + scrub->used;
        if (good && scrub->bad_to > 0) {
            /* The next time. */
            scrub->linked = linked;
            scrub->chain = chain;
            return;
        }
        if (!good && scrub->bad_to == 0) {
            scrub->bad_from = position;
            scrub->bad_linked = linked;
            scrub->bad_chain = chain;
        }
        if (!good) scrub->bad_to = position + bytes;
        scrub->used += bytes;
    }
}

/* The frame at `at` in the buffer, or a block of damage. Bytes; 0: it is not complete. */
static uint64_t
scrub_check_frame(struct ql_scrub *scrub, uint64_t at, bool *ret_good)
{
    const uint8_t *data = scrub->buffer + at;
    uint64_t position = scrub->position + at;
    struct ql_frame frame;
    bool mine = ql_frame_decode(data, &frame) == QL_BLOCK_GOOD && frame.position == position &&
                frame.incarnation == scrub->incarnation &&
                ql_frame_size(frame.body_length) <= scrub->end - position;
    bool follows = mine && (!scrub->linked || frame.previous == scrub->chain);
    *ret_good = false;
    if (!mine) {
        scrub->linked = false;
        return QL_BLOCK;
    }
    uint64_t bytes = ql_frame_size(frame.body_length);
    if (bytes > scrub->size - at) {
        scrub->wanted = bytes;
        return 0;
    }
    *ret_good = follows && frame_is_whole(&frame, data + QL_FRAME_HEADER_SIZE);
    /* A frame that does not follow may be an older one: what comes behind it follows another. */
    scrub->linked = follows;
    scrub->chain = frame.hash;
    return bytes;
}

static bool
frame_is_whole(const struct ql_frame *frame, const uint8_t *body)
{
    if (ql_hash(body, frame->records_length) != frame->records_hash) return false;
    struct ql_record_walk walk = {
        .records = q_bytes_from(body, frame->records_length),
        .payloads =
            q_bytes_from(body + frame->records_length, frame->body_length - frame->records_length),
    };
    for (;;) {
        struct ql_record record;
        enum q_err err = ql_record_next(&walk, &record);
        if (err == Q_END) return true;
        if (err != Q_OK) return false;
        if (record.payload == NULL) continue;
        struct qbatch batch;
        if (qbatch_open_trusted(record.bytes, &batch) != Q_OK) return false;
        if (qbatch_check_payload(&batch, record.payload) != Q_OK) return false;
    }
}

static void
scrub_on_checked(struct ql_job *job)
{
    struct ql_scrub *scrub = q_container_of(job, struct ql_scrub, job);
    scrub->state = QL_SCRUB_RESTING;
    bool bad = scrub->bad_to > 0;
    if (bad && !scrub->again) {
        /* What is not in memory is read again, from where the damage seems to begin. */
        scrub->position = scrub->bad_from;
        scrub->linked = scrub->bad_linked;
        scrub->chain = scrub->bad_chain;
        scrub->size = 0;
        scrub->again = true;
        return;
    }
    if (bad && scrub->bad_from != scrub->rot_to) scrub_tell_rot(scrub);
    if (bad && scrub->rot_to == 0) scrub->rot_from = scrub->bad_from;
    if (bad) scrub->rot_to = scrub->bad_to;
    scrub->position += scrub->used;
    scrub->size -= scrub->used;
    memmove(scrub->buffer, scrub->buffer + scrub->used, scrub->size);
    if (scrub->used == 0) return;
    scrub->again = false;
    if (scrub->rot_to != 0 && scrub->rot_to < scrub->position) scrub_tell_rot(scrub);
}

static void
scrub_tell_rot(struct ql_scrub *scrub)
{
    if (scrub->rot_to == 0) return;
    scrub->options.on_bad(
        scrub->options.context, scrub->rot_from, scrub->rot_to - scrub->rot_from, Q_E_CORRUPT, 0);
    scrub->rot_to = 0;
}
