#include "segment/log.h"

#include <stdio.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

#include "planted.h"

enum {
    /* Up to here one write with RWF_DSYNC costs less than a write and a flush (measured; see
     * docs/decisions). */
    DSYNC_BYTES_MAX = 128 * 1024,
    /* A second frame beside one in flight is started from this many bytes on. */
    WORTH_BYTES = 64 * 1024,
    SPARE_RETRY_NS = Q_NS_PER_S,
    SPARES_FORGET_S = 60, /* a roll that long ago asks for no spare of its own any more */
    /* Zeroed before a new directory is ready; the rest follows in the background. */
    HEAD_ZERO_BYTES = 4 * 1024 * 1024,
};

struct gather {
    struct ql_append *first;
    unsigned count;
    uint64_t records;
    uint64_t payloads;
    uint32_t record_count;
    bool flushed;
};

static bool log_may_start(const struct ql_log *log);
static bool log_build(struct ql_log *log, uint64_t now_ns);
static bool log_gather(struct ql_log *log, struct gather *ret_gather);
static void log_fill(struct ql_log *log, const struct gather *gather, struct ql_buffer *buffer);
static void log_submit(
    struct ql_log *log, struct ql_frame *frame, struct ql_buffer *buffer, bool durable);
static void log_on_written(struct ql_transfer *transfer);
static uint64_t log_mark(const struct ql_log *log, bool flushed);
static void log_reap(struct ql_log *log, uint64_t now_ns);
static void log_flush(struct ql_log *log, uint64_t now_ns, bool force);
static void log_on_flushed(struct ql_transfer *transfer);
static enum q_err log_need_spare(struct ql_log *log, uint64_t now_ns);
static enum q_err log_create_spare(struct ql_log *log, uint64_t now_ns);
static enum q_err log_check_space(const struct ql_log *log, unsigned files);
static unsigned log_spares_wanted(const struct ql_log *log, uint64_t now_ns);
static void log_roll_start(struct ql_log *log);
static void log_roll_go_on(struct ql_log *log, uint64_t now_ns);
static void log_on_header(struct ql_transfer *transfer);
static void log_use_segment(struct ql_log *log, struct ql_segment *segment);
static void log_finish(struct ql_append_queue *waiting, uint64_t end, enum q_err err);
static void log_refuse_queue(struct ql_log *log);
static void log_drop_spare(struct ql_log *log);
static void log_delete(struct ql_log *log, struct ql_segment *segment);

/* The one spare that may still want zeros: more of them there are only of recycled ones. */
static struct ql_segment *
log_fresh_spare(const struct ql_log *log)
{
    return log->spare_count > 0 ? log->spares[0] : NULL;
}

static void
queue_init(struct ql_append_queue *queue)
{
    queue->first = NULL;
    queue->last = &queue->first;
}

static void
queue_push(struct ql_append_queue *queue, struct ql_append *append)
{
    append->next = NULL;
    *queue->last = append;
    queue->last = &append->next;
}

static struct ql_append *
queue_pop(struct ql_append_queue *queue)
{
    struct ql_append *append = queue->first;
    if (append == NULL) return NULL;
    queue->first = append->next;
    if (queue->first == NULL) queue->last = &queue->first;
    return append;
}

uint64_t
ql_log_body_bytes_max(const struct ql_log *log)
{
    /* Header block and seal frame are not for bodies. */
    return log->segment_bytes - 2 * QL_BLOCK - QL_FRAME_HEADER_SIZE;
}

void
ql_log_init(struct ql_log *log, struct ql_env *env, const char *name, uint64_t segment_bytes)
{
    memset(log, 0, sizeof(*log));
    log->env = env;
    log->segment_bytes = segment_bytes;
    log->frame_bytes_max = UINT32_MAX;
    (void)snprintf(log->name, sizeof(log->name), "%s", name);
    queue_init(&log->queue);
    queue_init(&log->wait_written);
    queue_init(&log->wait_durable);
    queue_init(&log->refused);
}

enum q_err
ql_log_start(struct ql_log *log)
{
    if (log->active != NULL) return Q_OK;
    struct ql_env *env = log->env;
    enum q_err err = log_need_spare(log, q_clock_monotonic_ns(log->env->clock));
    /* A full disk under a log that ends with a seal: it can be read, and goes on when there is space,
     * like one that met the full disk while it was running. */
    if (err == Q_E_NO_SPACE && log->segments.count > 0) {
        log->active = log->segments.segments[log->segments.count - 1];
        log->active->state = QL_SEGMENT_ACTIVE;
        log->roll = QL_ROLL_SEALING;
        return Q_OK;
    }
    if (err != Q_OK) return err;
    struct ql_segment *segment = log->spares[log->spare_count - 1];
    segment->state = QL_SEGMENT_ACTIVE;
    segment->base = log->tail;
    segment->chain = log->chain;
    segment->opened_ms = q_max_u64(log->wall_ms, q_clock_wall_ms(env->clock));
    Q_TRY(ql_segment_write_header(env, segment, log->name));
    Q_TRY(ql_segment_set_add(&log->segments, segment));
    log->spare_count--;
    log->active = segment;
    ql_zero_head(env, segment, HEAD_ZERO_BYTES);
    return Q_OK;
}

void
ql_log_end(struct ql_log *log)
{
    Q_ASSERT(log->flight_count == 0 && !log->flush_busy && log->roll != QL_ROLL_OPENING);
    ql_log_finish(log);
    enum q_err err = ql_env_check(log->env);
    if (err == Q_OK) err = Q_FAIL(Q_STOPPING, .what = "the log is being closed");
    log_refuse_queue(log);
    log_finish(&log->wait_written, UINT64_MAX, err);
    log_finish(&log->wait_durable, UINT64_MAX, err);
    log_finish(&log->refused, UINT64_MAX, err);
}

void
ql_log_fini(struct ql_log *log)
{
    if (log->header_buffer != NULL) ql_buffer_give(log->env, log->header_buffer);
    ql_segment_set_free(log->env, &log->segments);
    ql_segment_free(log->env, log->next);
    for (unsigned i = 0; i < log->spare_count; i++)
        ql_segment_free(log->env, log->spares[i]);
}

enum q_err
ql_log_append(struct ql_log *log, struct ql_append *append)
{
    append->table->measure(append, 0);
    uint64_t size = (uint64_t)append->records_size + append->payloads_size;
    if (size > ql_log_body_bytes_max(log))
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text(
                           "%llu bytes do not fit into a segment of %llu", (unsigned long long)size,
                           (unsigned long long)log->segment_bytes));
    append->end = 0;
    queue_push(&log->queue, append);
    append->queued_size = (uint32_t)size;
    log->queued_bytes += size;
    return Q_OK;
}

void
ql_log_await(struct ql_log *log, struct ql_append *append, uint64_t position)
{
    /* Marks move by whole frames. */
    append->end = position + 1;
    struct ql_append_queue *waiting = append->flushed ? &log->wait_durable : &log->wait_written;
    struct ql_append **at = &waiting->first;
    while (*at != NULL && (*at)->end <= append->end)
        at = &(*at)->next;
    append->next = *at;
    if (*at == NULL) waiting->last = &append->next;
    *at = append;
}

enum q_err
ql_log_refuses(const struct ql_log *log)
{
    if (log->refused.first == NULL) return Q_OK;
    q_fault_adopt(&log->refused_fault);
    return log->refused_fault.err;
}

void
ql_log_write(struct ql_log *log, uint64_t now_ns)
{
    while (log_may_start(log) && log_build(log, now_ns))
        continue;
}

static bool
log_may_start(const struct ql_log *log)
{
    if (log->env->broken != Q_OK || log->roll != QL_ROLL_NONE) return false;
    if (log->queue.first == NULL || log->flight_count >= log->env->depth_max) return false;
    return log->flight_count == 0 || log->queued_bytes >= WORTH_BYTES;
}

/* One frame of what is queued. False when that can't be done now. */
static bool
log_build(struct ql_log *log, uint64_t now_ns)
{
    struct gather gather;
    if (!log_gather(log, &gather)) {
        log_roll_start(log);
        return false;
    }
    uint32_t body = (uint32_t)(gather.records + gather.payloads);
    uint64_t end = ql_segment_offset(log->active, log->tail) + ql_frame_size(body);
    if (ql_zero_blocks(&log->zero, log->active, end)) return false;
    struct ql_buffer *buffer;
    if (ql_buffer_take(log->env, ql_frame_size(body), &buffer) != Q_OK) {
        /* Out of memory: go on when a frame in flight gives its buffer back. */
        if (log->flight_count == 0) log_refuse_queue(log);
        return false;
    }
    if (log->unflushed_since_ns == 0) log->unflushed_since_ns = now_ns;
    log_fill(log, &gather, buffer);
    return true;
}

/* As much of the queue as one frame may hold. False: not even the first fits into the segment. */
static bool
log_gather(struct ql_log *log, struct gather *ret_gather)
{
    uint64_t room = ql_segment_limit(log->active) - log->tail;
    uint64_t room_for_body = room < 2 * QL_BLOCK ? 0 : room - QL_BLOCK - QL_FRAME_HEADER_SIZE;
    /* The header counts: with the body alone at the limit, a block more would hold 128 bytes. */
    uint64_t frame_max = q_min_u64(log->env->frame_bytes_max, log->frame_bytes_max);
    frame_max = q_max_u64(frame_max, QL_BLOCK);
    uint64_t wanted = q_min_u64(frame_max - QL_FRAME_HEADER_SIZE, room_for_body);
    struct gather gather = { .first = log->queue.first };
    for (struct ql_append *append = log->queue.first; append != NULL; append = append->next) {
        append->table->measure(append, log->active->incarnation);
        uint64_t body =
            gather.records + append->records_size + gather.payloads + append->payloads_size;
        if (body > (gather.count == 0 ? room_for_body : wanted)) break;
        gather.count++;
        gather.records += append->records_size;
        gather.payloads += append->payloads_size;
        gather.record_count += append->record_count;
        gather.flushed = gather.flushed || append->flushed;
    }
    *ret_gather = gather;
    return gather.count > 0;
}

static void
log_fill(struct ql_log *log, const struct gather *gather, struct ql_buffer *buffer)
{
    log->wall_ms = q_max_u64(log->wall_ms, q_clock_wall_ms(log->env->clock));
    uint32_t body = (uint32_t)(gather->records + gather->payloads);
    struct ql_frame frame = {
        .kind = QL_FRAME_DATA,
        .position = log->tail,
        .body_length = body,
        .records_length = (uint32_t)gather->records,
        .record_count = gather->record_count,
        .wall_ms = log->wall_ms,
    };
    struct ql_place place = {
        .frame = log->tail,
        .frame_size = (uint32_t)ql_frame_size(body),
        .records_at = QL_FRAME_HEADER_SIZE,
        .payloads_at = QL_FRAME_HEADER_SIZE + (uint32_t)gather->records,
        .wall_ms = log->wall_ms,
    };
    uint64_t end = log->tail + ql_frame_size(body);
    for (unsigned i = 0; i < gather->count; i++) {
        struct ql_append *append = queue_pop(&log->queue);
        append->table->fill(
            append, &place, buffer->data + place.records_at, buffer->data + place.payloads_at);
        place.records_at += append->records_size;
        place.payloads_at += append->payloads_size;
        append->end = end;
        log->queued_bytes -= append->queued_size;
        queue_push(append->flushed ? &log->wait_durable : &log->wait_written, append);
    }
    frame.records_hash = ql_hash(buffer->data + QL_FRAME_HEADER_SIZE, frame.records_length);
    log_submit(log, &frame, buffer, gather->flushed);
}

/* Complete the header of a filled buffer and send it on its way. Moves the tail. */
static void
log_submit(struct ql_log *log, struct ql_frame *frame, struct ql_buffer *buffer, bool durable)
{
    struct ql_env *env = log->env;
    uint64_t size = ql_frame_size(frame->body_length);
    uint64_t used = QL_FRAME_HEADER_SIZE + (uint64_t)frame->body_length;
    Q_ASSERT(log->tail + size <= ql_segment_limit(log->active));
    frame->incarnation = log->active->incarnation;
    frame->generation = env->generation;
    frame->durable = log->durable;
    frame->previous = log->chain;
    ql_frame_encode(frame, buffer->data);
    memset(buffer->data + used, 0, size - used);

    unsigned slot = (log->flight_first + log->flight_count) % QL_DEPTH_MAX;
    struct ql_flight *flight = &log->flights[slot];
    *flight = (struct ql_flight){
        .write = {
            .op = {
                .kind = QLOG_IO_WRITE,
                .durable = durable && size <= DSYNC_BYTES_MAX,
                .file = log->active->file,
                .buffer = buffer->index,
                .data = buffer->data,
                .length = (uint32_t)size,
                .at = ql_segment_offset(log->active, log->tail),
            },
            .done = log_on_written,
        },
        .log = log,
        .buffer = buffer,
        .position = log->tail,
        .end = log->tail + size,
    };
    log->flight_count++;
    log->tail = flight->end;
    log->chain = frame->hash;
    env->frame_count++;
    env->byte_count += size;
    if (log->on_frame != NULL)
        log->on_frame(log->frame_context, flight->position, buffer->data, used);
    ql_transfer_submit(env->io, &flight->write);
}

static void
log_on_written(struct ql_transfer *transfer)
{
    struct ql_flight *flight = q_container_of(transfer, struct ql_flight, write);
    struct ql_log *log = flight->log;
    flight->complete = true;
    if (transfer->error == 0 || QL_PLANTED(write_error_ignored)) return;
    char path[QL_PATH_MAX];
    ql_env_break(
        log->env, log->name, ql_segment_path(log->env, log->name, log->active->number, path),
        flight->position, -transfer->error);
}

void
ql_log_advance(struct ql_log *log, uint64_t now_ns, bool force_flush)
{
    log_reap(log, now_ns);
    if (log->env->broken != Q_OK) {
        log_refuse_queue(log);
        return;
    }
    log_flush(log, now_ns, force_flush);
    log_roll_go_on(log, now_ns);
    ql_log_check(log);
}

/* What an append waits for. */
static uint64_t
log_mark(const struct ql_log *log, bool flushed)
{
    if (QL_PLANTED(ack_before_write)) return log->tail;
    return flushed && !QL_PLANTED(ack_before_flush) ? log->durable : log->written;
}

/* `written` follows the longest prefix of complete frames; `durable` too while each was its own. */
static void
log_reap(struct ql_log *log, uint64_t now_ns)
{
    while (log->flight_count > 0 && log->flights[log->flight_first].complete) {
        struct ql_flight *flight = &log->flights[log->flight_first];
        if (log->env->broken == Q_OK) {
            log->written = flight->end;
            if (flight->write.op.durable &&
                (log->durable == flight->position || QL_PLANTED(durable_over_gap)))
                log->durable = flight->end;
        }
        ql_buffer_give(log->env, flight->buffer);
        flight->buffer = NULL;
        log->flight_first = (log->flight_first + 1) % QL_DEPTH_MAX;
        log->flight_count--;
    }
    if (log->durable == log->written) log->unflushed_since_ns = log->flight_count > 0 ? now_ns : 0;
}

static void
log_flush(struct ql_log *log, uint64_t now_ns, bool force)
{
    if (QL_PLANTED(flush_skipped)) log->durable = log->written;
    if (log->flush_busy || log->written == log->durable) return;
    const struct ql_env *env = log->env;
    bool wanted = log->wait_durable.first != NULL && log->wait_durable.first->end <= log->written;
    bool sealing = log->roll == QL_ROLL_SEALING && log->flight_count == 0;
    bool due =
        log->written - log->durable >= env->async_flush_bytes ||
        (log->unflushed_since_ns != 0 && now_ns - log->unflushed_since_ns >= env->async_flush_ns);
    if (!wanted && !sealing && !due && !force) return;
    log->flush_busy = true;
    log->flush_covers = QL_PLANTED(flush_covers_flight) ? log->tail : log->written;
    log->unflushed_since_ns = now_ns;
    log->flush = (struct ql_transfer){
        .op = { .kind = QLOG_IO_FLUSH, .file = log->active->file, .buffer = -1 },
        .done = log_on_flushed,
    };
    log->env->flush_count++;
    ql_transfer_submit(env->io, &log->flush);
}

static void
log_on_flushed(struct ql_transfer *transfer)
{
    struct ql_log *log = q_container_of(transfer, struct ql_log, flush);
    log->flush_busy = false;
    if (transfer->error == 0) {
        log->durable = q_max_u64(log->durable, log->flush_covers);
        return;
    }
    if (QL_PLANTED(flush_retried)) return;
    char path[QL_PATH_MAX];
    ql_env_break(
        log->env, log->name, ql_segment_path(log->env, log->name, log->active->number, path),
        log->durable, -transfer->error);
}

void
ql_log_finish(struct ql_log *log)
{
    /* `done` may append again; what it appends can't be finished before the next advance. */
    struct ql_append_queue refused = log->refused;
    if (refused.first == NULL) refused.last = &refused.first;
    queue_init(&log->refused);
    /* What reached its mark before the log broke or filled up is good all the same. */
    log_finish(&log->wait_written, log_mark(log, false), Q_OK);
    log_finish(&log->wait_durable, log_mark(log, true), Q_OK);
    if (log->env->broken != Q_OK) {
        enum q_err err = ql_env_check(log->env);
        log_finish(&log->wait_written, UINT64_MAX, err);
        log_finish(&log->wait_durable, UINT64_MAX, err);
        log_finish(&refused, UINT64_MAX, err);
        return;
    }
    struct ql_append *append;
    while ((append = queue_pop(&refused)) != NULL) {
        q_fault_adopt(&log->refused_fault);
        append->table->done(append, log->refused_fault.err);
    }
}

/* Those that end at or below `end`, from the front on. */
static void
log_finish(struct ql_append_queue *waiting, uint64_t end, enum q_err err)
{
    while (waiting->first != NULL && waiting->first->end <= end) {
        struct ql_append *append = queue_pop(waiting);
        append->table->done(append, err);
    }
}

bool
ql_log_is_idle(const struct ql_log *log, bool flushed)
{
    if (log->flight_count > 0 || log->flush_busy) return false;
    if (log->roll == QL_ROLL_OPENING && !QL_PLANTED(closed_while_rolling)) return false;
    if (log->zero.segment != NULL) return false;
    if (log->env->broken != Q_OK) return true;
    if (log->queue.first != NULL) return false;
    /* Sealed, and without space for the next segment: nothing moves, and nothing has to. */
    if (log->roll == QL_ROLL_SEALING)
        return log->spare_count <= log->kept_files && log->durable == log->tail;
    /* Marks move when something completes; who waits for them is answered in the turn after. */
    if (log->wait_written.first != NULL || log->wait_durable.first != NULL) return false;
    if (log->refused.first != NULL) return false;
    return !flushed || log->durable == log->tail;
}

uint64_t
ql_log_deadline_ns(const struct ql_log *log)
{
    uint64_t deadline = UINT64_MAX;
    if (log->written > log->durable && !log->flush_busy)
        deadline = log->unflushed_since_ns + log->env->async_flush_ns;
    if (log->roll == QL_ROLL_SEALING && log->spare_retry_ns != 0)
        deadline = q_min_u64(deadline, log->spare_retry_ns);
    return q_min_u64(deadline, ql_zero_deadline_ns(&log->zero, log->active, log_fresh_spare(log)));
}

void
ql_log_keep(struct ql_log *log, unsigned files)
{
    log->kept_files = files;
    log->spare_retry_ns = 0;
}

/* The next segment may begin: there is a spare, and what is to be kept is there beside it. */
static enum q_err
log_need_spare(struct ql_log *log, uint64_t now_ns)
{
    if (log->spare_count == 0) Q_TRY(log_create_spare(log, now_ns));
    unsigned left = log->spare_count - 1;
    enum q_err err = Q_OK;
    if (left < log->kept_files) err = log_check_space(log, log->kept_files - left);
    log->spare_retry_ns = err == Q_OK ? 0 : now_ns + SPARE_RETRY_NS;
    if (err != Q_OK) log->spare_fault = *q_fault_last();
    return err;
}

/* A number is used up only by a segment that came to be. */
static enum q_err
log_create_spare(struct ql_log *log, uint64_t now_ns)
{
    struct ql_segment *spare;
    enum q_err err = log_check_space(log, 1);
    if (err == Q_OK)
        err = ql_segment_create(
            log->env, log->name, log->number_next, log->incarnation + 1, log->segment_bytes,
            &spare);
    if (err != Q_OK) {
        /* For whoever needs the spare before it is tried again. */
        log->spare_retry_ns = now_ns + SPARE_RETRY_NS;
        log->spare_fault = *q_fault_last();
        return err;
    }
    log->spares[log->spare_count++] = spare;
    log->spare_retry_ns = 0;
    log->number_next++;
    log->incarnation++;
    return Q_OK;
}

/* Room for so many files. Q_OK or Q_E_NO_SPACE: what is free is for the log that this one yields to. */
static enum q_err
log_check_space(const struct ql_log *log, unsigned files)
{
    const struct ql_env *env = log->env;
    const struct ql_log *other = log->yields_to;
    if (other == NULL || log->segments.count == 0 || QL_PLANTED(log_yields_nothing)) return Q_OK;
    unsigned has = other->segments.count + other->spare_count;
    /* One at least, for what else is in the directory. */
    uint64_t missing = has < log->yields_files ? log->yields_files - has : 1;
    uint64_t wanted = files * log->segment_bytes + missing * other->segment_bytes;
    uint64_t free_bytes;
    uint64_t total;
    /* A file system that does not tell refuses by itself. */
    if (env->io->table->space(env->io, env->path, &free_bytes, &total) < 0) return Q_OK;
    if (free_bytes >= wanted) return Q_OK;
    return Q_FAIL(
        Q_E_NO_SPACE, .path = env->path,
        .what = q_text(
            "%llu MiB are free, and a segment of the %s log takes %llu, with what the %s log "
            "may still need",
            (unsigned long long)(free_bytes >> 20), log->name, (unsigned long long)(wanted >> 20),
            other->name));
}

static unsigned
log_spares_wanted(const struct ql_log *log, uint64_t now_ns)
{
    unsigned wanted = 0;
    for (unsigned i = 0; i < QL_SPARES_MAX; i++) {
        bool rolled = log->rolled_ns[i] != 0;
        if (rolled && now_ns - log->rolled_ns[i] < SPARES_FORGET_S * (uint64_t)Q_NS_PER_S) wanted++;
    }
    return wanted == 0 ? 1 : wanted;
}

static void
log_roll_start(struct ql_log *log)
{
    uint64_t end = ql_segment_offset(log->active, log->tail) + QL_BLOCK;
    if (ql_zero_blocks(&log->zero, log->active, end)) return;
    struct ql_buffer *buffer;
    if (ql_buffer_take(log->env, QL_BLOCK, &buffer) != Q_OK) return;
    log->wall_ms = q_max_u64(log->wall_ms, q_clock_wall_ms(log->env->clock));
    struct ql_frame frame = {
        .kind = QL_FRAME_SEAL,
        .last = true,
        .position = log->tail,
        .wall_ms = log->wall_ms,
        .records_hash = ql_hash(NULL, 0),
    };
    log_submit(log, &frame, buffer, true);
    log->roll = QL_ROLL_SEALING;
}

static void
log_roll_go_on(struct ql_log *log, uint64_t now_ns)
{
    if (log->roll != QL_ROLL_SEALING) return;
    if (log->durable != log->tail && !QL_PLANTED(roll_unflushed)) return;
    struct ql_env *env = log->env;
    if (log->spare_count <= log->kept_files && now_ns < log->spare_retry_ns) {
        q_fault_adopt(&log->spare_fault);
        log_refuse_queue(log);
        return;
    }
    if (log_need_spare(log, now_ns) != Q_OK) {
        log_refuse_queue(log);
        return;
    }
    if (ql_buffer_take(env, QL_BLOCK, &log->header_buffer) != Q_OK) return;
    log->next = log->spares[--log->spare_count];
    log->next->state = QL_SEGMENT_ACTIVE;
    log->next->base = log->tail;
    log->next->chain = log->chain;
    log->next->opened_ms = q_max_u64(log->wall_ms, q_clock_wall_ms(env->clock));
    log->rolled_ns[log->rolled_next++ % QL_SPARES_MAX] = now_ns;
    ql_segment_activation(env, log->next, log->name, log->header_buffer->data);
    log->header_write = (struct ql_transfer){
        .op = {
            .kind = QLOG_IO_WRITE,
            .durable = !QL_PLANTED(header_unflushed),
            .file = log->next->file,
            .buffer = log->header_buffer->index,
            .data = log->header_buffer->data,
            .length = QL_BLOCK,
        },
        .done = log_on_header,
    };
    log->roll = QL_ROLL_OPENING;
    ql_transfer_submit(env->io, &log->header_write);
}

static void
log_on_header(struct ql_transfer *transfer)
{
    struct ql_log *log = q_container_of(transfer, struct ql_log, header_write);
    ql_buffer_give(log->env, log->header_buffer);
    log->header_buffer = NULL;
    log->roll = QL_ROLL_NONE;
    char path[QL_PATH_MAX];
    ql_segment_path(log->env, log->name, log->next->number, path);
    if (transfer->error != 0) {
        ql_env_break(log->env, log->name, path, log->tail, -transfer->error);
        return;
    }
    log_use_segment(log, log->next);
    QL_TELL(
        log->env, ROLLED, .log = log->name, .path = path, .position = log->tail,
        .text = "next segment");
}

static void
log_use_segment(struct ql_log *log, struct ql_segment *segment)
{
    log->active->state = QL_SEGMENT_SEALED;
    log->active->end = log->tail;
    if (ql_segment_set_add(&log->segments, segment) != Q_OK) {
        /* The table of segments can't grow: the log can't go on, but it is whole on the disk. */
        ql_env_break(log->env, log->name, log->env->path, log->tail, 0);
        return;
    }
    log->active = segment;
    log->next = NULL;
}

/* What is queued and not yet in a frame ends with this thread's last fault: no sequence was given,
 * nothing was said. */
static void
log_refuse_queue(struct ql_log *log)
{
    struct ql_append *append;
    if (log->queue.first == NULL) return;
    log->refused_fault = *q_fault_last();
    while ((append = queue_pop(&log->queue)) != NULL) {
        append->end = 0;
        queue_push(&log->refused, append);
    }
    log->queued_bytes = 0;
}

void
ql_log_prepare(struct ql_log *log, uint64_t now_ns)
{
    ql_zero_step(&log->zero, log->env, log->active, log_fresh_spare(log), log->tail, now_ns);
    if (log->spare_count > log_spares_wanted(log, now_ns)) log_drop_spare(log);
    if (log->spare_count > 0 || log->roll != QL_ROLL_NONE || now_ns < log->spare_retry_ns) return;
    uint64_t used = log->tail - log->active->base;
    if (!log->spare_first && used < (log->active->file_size - QL_BLOCK) / 2) return;
    enum q_err err = log_create_spare(log, now_ns);
    (void)err; /* told when it is needed */
}

bool
ql_log_is_short(const struct ql_log *log)
{
    return log->spare_count == 0 && log->spare_retry_ns != 0;
}

/* The oldest: the others were written already, and it may not be. */
static void
log_drop_spare(struct ql_log *log)
{
    struct ql_segment *spare = log->spares[0];
    if (log->zero.segment == spare) return;
    log->spare_count--;
    memmove(log->spares, log->spares + 1, log->spare_count * sizeof(log->spares[0]));
    log_delete(log, spare);
}

/* A file that stays is passed over at the next open: it is a spare, or lies below the log's first. */
static void
log_delete(struct ql_log *log, struct ql_segment *segment)
{
    char path[QL_PATH_MAX];
    ql_segment_path(log->env, log->name, segment->number, path);
    (void)log->env->io->table->unlink(log->env->io, path);
    ql_segment_free(log->env, segment);
}

uint64_t
ql_log_drop_end(const struct ql_log *log, uint64_t before)
{
    uint64_t first = log->segments.segments[0]->base;
    for (uint32_t i = 0; i < log->segments.count; i++) {
        const struct ql_segment *segment = log->segments.segments[i];
        if (segment == log->active || segment->end > before || segment->pins > 0) break;
        /* Nor one that the kernel is still busy with. */
        if (segment == log->zero.segment) break;
        if (log->flush_busy && log->flush.op.file == segment->file) break;
        first = segment->end;
    }
    return first;
}

enum q_err
ql_log_drop(struct ql_log *log, uint64_t before)
{
    uint64_t first = ql_log_drop_end(log, before);
    unsigned wanted = log_spares_wanted(log, q_clock_monotonic_ns(log->env->clock));
    uint32_t count = 0;
    enum q_err err = Q_OK;
    while (log->segments.segments[count]->base < first) {
        struct ql_segment *segment = log->segments.segments[count++];
        if (err == Q_OK && log->spare_count < wanted && segment->file_size == log->segment_bytes) {
            err = ql_segment_recycle(log->env, segment, log->name, ++log->incarnation);
            if (err == Q_OK) {
                log->spares[log->spare_count++] = segment;
                log->spare_retry_ns = 0;
                continue;
            }
        }
        log_delete(log, segment);
    }
    log->segments.count -= count;
    memmove(
        log->segments.segments, log->segments.segments + count,
        log->segments.count * sizeof(struct ql_segment *));
    return err;
}

void
ql_log_check(const struct ql_log *log)
{
    Q_ASSERT(log->durable <= log->written && log->written <= log->tail);
    Q_ASSERT((log->durable | log->written | log->tail) % QL_BLOCK == 0);
    if (log->flight_count > 0) {
        unsigned last = (log->flight_first + log->flight_count - 1) % QL_DEPTH_MAX;
        Q_ASSERT(log->flights[log->flight_first].position == log->written);
        Q_ASSERT(log->flights[last].end == log->tail);
    } else {
        Q_ASSERT(log->written == log->tail);
    }
    Q_ASSERT(log->tail >= log->active->base && log->tail <= ql_segment_limit(log->active));
}

uint64_t
ql_log_zeroed(const struct ql_log *log)
{
    uint64_t offset = q_max_u64(log->active->zeroed, QL_BLOCK);
    return log->active->base + (offset - QL_BLOCK);
}
