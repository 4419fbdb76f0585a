#include "segment/segment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

#include "io/transfer.h"
#include "planted.h"
#include "segment/buffer.h"

static enum q_err segment_read_header(
    struct ql_env *env, struct ql_segment *segment, const char *log, const char *path);
static int segment_read(
    struct ql_env *env, int file, uint64_t at, const struct ql_buffer *buffer, uint32_t size);
static enum q_err segment_read_fail(const char *path, uint64_t at, int rv);
static void survey_block(
    struct ql_segment_survey *survey,
    const struct ql_segment *segment,
    uint64_t behind,
    const uint8_t *block);
static int segment_open_file(struct ql_env *env, const char *path, unsigned flags);

const char *
ql_segment_path(const struct ql_env *env, const char *log, uint32_t number, char out[QL_PATH_MAX])
{
    (void)snprintf(out, QL_PATH_MAX, "%s/%s/segment-%06u", env->path, log, number);
    return out;
}

enum q_err
ql_segment_create(
    struct ql_env *env,
    const char *log,
    uint32_t number,
    uint64_t incarnation,
    uint64_t file_size,
    struct ql_segment **ret_segment)
{
    char path[QL_PATH_MAX];
    ql_segment_path(env, log, number, path);
    struct ql_segment *segment = calloc(1, sizeof(*segment));
    if (segment == NULL) return Q_FAIL(Q_E_NOMEM, .what = "segment");
    segment->state = QL_SEGMENT_SPARE;
    segment->number = number;
    segment->incarnation = incarnation;
    segment->file_size = file_size;
    segment->zeroed = QL_BLOCK;
    segment->opened_ms = q_clock_wall_ms(env->clock);
    segment->file = segment_open_file(env, path, QLOG_IO_OPEN_CREATE);
    if (segment->file < 0) {
        int error = -segment->file;
        free(segment);
        return Q_FAIL(
            q_err_from_errno(error), .path = path, .sys = error, .what = "create segment");
    }

    enum q_err err = Q_OK;
    int rv = env->io->table->allocate(env->io, segment->file, segment->file_size);
    if (rv < 0)
        err = Q_FAIL(
            q_err_from_errno(-rv), .path = path, .sys = -rv,
            .what = q_text(
                "allocate %llu bytes for the next segment", (unsigned long long)segment->file_size),
            .hint = "free some space on this file system, or use smaller segments");
    if (err == Q_OK) err = ql_segment_write_header(env, segment, log);
    if (err == Q_OK) {
        char directory[QL_PATH_MAX];
        (void)snprintf(directory, sizeof(directory), "%s/%s", env->path, log);
        if (!QL_PLANTED(name_unflushed)) rv = env->io->table->sync_directory(env->io, directory);
        if (rv < 0)
            err = Q_FAIL(
                q_err_from_errno(-rv), .path = directory, .sys = -rv,
                .what = "flush the directory of a new segment");
    }
    if (err != Q_OK) {
        /* Half a file would keep what it got of the space that is short. */
        struct q_fault fault = *q_fault_last();
        (void)env->io->table->unlink(env->io, path);
        ql_segment_free(env, segment);
        q_fault_adopt(&fault);
        return err;
    }
    *ret_segment = segment;
    return Q_OK;
}

enum q_err
ql_segment_open(
    struct ql_env *env, const char *log, uint32_t number, struct ql_segment **ret_segment)
{
    char path[QL_PATH_MAX];
    ql_segment_path(env, log, number, path);
    struct ql_segment *segment = calloc(1, sizeof(*segment));
    if (segment == NULL) return Q_FAIL(Q_E_NOMEM, .what = "segment");
    segment->number = number;
    segment->file = segment_open_file(env, path, env->read_only ? QLOG_IO_OPEN_READ : 0);
    if (segment->file < 0) {
        int error = -segment->file;
        free(segment);
        /* A running writer has deleted it since it was listed. */
        if (error == ENOENT && env->read_only) return Q_NOT_FOUND;
        return Q_FAIL(q_err_from_errno(error), .path = path, .sys = error, .what = "open segment");
    }
    enum q_err err = segment_read_header(env, segment, log, path);
    if (err != Q_OK) {
        ql_segment_free(env, segment);
        return err;
    }
    *ret_segment = segment;
    return Q_OK;
}

enum q_err
ql_segment_reopen(
    struct ql_env *env,
    const char *log,
    const struct ql_segment *segment,
    struct ql_segment **ret_segment)
{
    char path[QL_PATH_MAX];
    struct ql_segment *other = calloc(1, sizeof(*other));
    if (other == NULL) return Q_FAIL(Q_E_NOMEM, .what = "segment");
    other->state = segment->state;
    other->number = segment->number;
    other->file_size = segment->file_size;
    other->incarnation = segment->incarnation;
    other->base = segment->base;
    other->end = segment->end;
    other->chain = segment->chain;
    other->file =
        segment_open_file(env, ql_segment_path(env, log, segment->number, path), QLOG_IO_OPEN_READ);
    if (other->file < 0) {
        int error = -other->file;
        free(other);
        if (error == ENOENT) return Q_NOT_FOUND;
        return Q_FAIL(q_err_from_errno(error), .path = path, .sys = error, .what = "open segment");
    }
    *ret_segment = other;
    return Q_OK;
}

bool
ql_segment_peek(struct ql_env *env, const char *log, uint32_t number, uint8_t ret_store_id[16])
{
    char path[QL_PATH_MAX];
    ql_segment_path(env, log, number, path);
    int file = env->io->table->open(env->io, path, QLOG_IO_OPEN_READ);
    if (file < 0) return false;
    uint8_t block[QL_BLOCK];
    struct ql_transfer read = {
        .op = {
            .kind = QLOG_IO_READ,
            .file = file,
            .buffer = -1,
            .data = block,
            .length = QL_BLOCK,
        },
    };
    struct ql_segment_header header;
    bool told = ql_transfer_wait(env->io, &read) == 0 &&
                ql_segment_header_decode(block, &header) == QL_BLOCK_GOOD &&
                strcmp(header.log_name, log) == 0;
    env->io->table->close(env->io, file);
    if (told) memcpy(ret_store_id, header.store_id, sizeof(header.store_id));
    return told;
}

/* Direct where the file system can, through the page cache where it can't. */
static int
segment_open_file(struct ql_env *env, const char *path, unsigned flags)
{
    if (!env->buffered) {
        int file = env->io->table->open(env->io, path, flags | QLOG_IO_OPEN_DIRECT);
        if (file != -EINVAL) return file;
        env->buffered = true;
        QL_TELL(env, BUFFERED, .path = path, .text = "no direct I/O here; using the page cache");
    }
    return env->io->table->open(env->io, path, flags);
}

static enum q_err
segment_read_header(
    struct ql_env *env, struct ql_segment *segment, const char *log, const char *path)
{
    uint64_t size;
    int rv = env->io->table->size(env->io, segment->file, &size);
    if (rv < 0)
        return Q_FAIL(q_err_from_errno(-rv), .path = path, .sys = -rv, .what = "segment size");
    struct ql_buffer *buffer;
    Q_TRY(ql_buffer_take(env, 2 * QL_BLOCK, &buffer));
    struct ql_segment_header header = { 0 };
    struct ql_frame first;
    enum ql_block_state state = QL_BLOCK_FOREIGN;
    bool framed = false;
    rv = segment_read(env, segment->file, 0, buffer, 2 * QL_BLOCK);
    if (rv == 0) framed = ql_frame_decode(buffer->data + QL_BLOCK, &first) == QL_BLOCK_GOOD;
    /* Perhaps it is the frame alone. */
    if (rv < 0) rv = segment_read(env, segment->file, 0, buffer, QL_BLOCK);
    if (rv == 0) state = ql_segment_header_decode(buffer->data, &header);
    ql_buffer_give(env, buffer);
    /* It may be right all the same, and what is written in its place is less than it was. */
    bool guess = env->read_only || QL_PLANTED(header_guessed);
    if (rv < 0 && !guess) return segment_read_fail(path, 0, rv);
    if (state == QL_BLOCK_NEWER)
        return Q_FAIL(Q_E_VERSION, .path = path, .what = "segment of a newer format");
    bool named = state == QL_BLOCK_GOOD && strcmp(header.log_name, log) == 0 &&
                 memcmp(header.store_id, env->store_id, sizeof(env->store_id)) == 0;
    segment->state = header.in_use ? QL_SEGMENT_ACTIVE : QL_SEGMENT_SPARE;
    segment->incarnation = header.incarnation;
    segment->base = header.base;
    segment->chain = header.chain;
    segment->opened_ms = header.created_ms;
    segment->file_size = state == QL_BLOCK_GOOD ? header.file_size : size - size % QL_BLOCK;
    if (named) {
        /* No frame is newer than the header before it, and none lies in a spare of its time. */
        bool fits = header.in_use && header.base == first.position;
        segment->doubtful = framed && (first.incarnation > header.incarnation ||
                                       (first.incarnation == header.incarnation && !fits));
    } else {
        /* A damaged header, or one that strayed in, before frames that know where they are. */
        struct ql_segment_survey survey;
        Q_TRY(ql_segment_survey(env, segment, log, &survey));
        if (survey.count > 0 && survey.fitting == 0) {
            segment->file_size = size - size % QL_BLOCK;
            ql_segment_become(env, segment, log, &survey);
        } else if (rv < 0) {
            return segment_read_fail(path, 0, rv);
        } else if (state != QL_BLOCK_GOOD) {
            return Q_NOT_FOUND;
        } else {
            return Q_FAIL(
                Q_E_CORRUPT, .path = path,
                .what = "the segment belongs to another log or directory",
                .hint = "move the file back to where it came from");
        }
    }
    if (segment->file_size < 2 * QL_BLOCK)
        return Q_FAIL(
            Q_E_CORRUPT, .path = path,
            .what = q_text(
                "the header says that the file has %llu bytes",
                (unsigned long long)segment->file_size),
            .hint = "the file was not written by this program; move it away");
    /* What a cut file lacks is missed as frames. What will be written there is to have its space. */
    bool cut = size < segment->file_size && !env->read_only;
    rv = cut ? env->io->table->allocate(env->io, segment->file, segment->file_size) : 0;
    if (rv < 0)
        return Q_FAIL(
            q_err_from_errno(-rv), .path = path, .sys = -rv,
            .what = q_text(
                "make a file of %llu bytes as long as it was, %llu", (unsigned long long)size,
                (unsigned long long)segment->file_size),
            .hint = "free some space on this file system");
    /* What the superblock does not know better was written: zeros are a matter of speed. */
    segment->zeroed = segment->file_size;
    return Q_OK;
}

enum q_err
ql_segment_survey(
    struct ql_env *env,
    const struct ql_segment *segment,
    const char *log,
    struct ql_segment_survey *ret_survey)
{
    char path[QL_PATH_MAX];
    struct ql_segment_survey survey = { 0 };
    struct ql_buffer *buffer;
    Q_TRY(ql_buffer_take(env, QL_BUFFER_SMALL, &buffer));
    enum q_err err = Q_OK;
    for (uint64_t at = QL_BLOCK; err == Q_OK && at < segment->file_size; at += QL_BUFFER_SMALL) {
        int rv = segment_read(env, segment->file, at, buffer, QL_BUFFER_SMALL);
        if (rv < 0 && !env->read_only)
            err = segment_read_fail(ql_segment_path(env, log, segment->number, path), at, rv);
        if (rv < 0) continue;
        for (uint64_t block = 0; block < QL_BUFFER_SMALL; block += QL_BLOCK)
            survey_block(&survey, segment, at + block - QL_BLOCK, buffer->data + block);
    }
    ql_buffer_give(env, buffer);
    *ret_survey = survey;
    return err;
}

/* `behind`: so far from the first frame. */
static void
survey_block(
    struct ql_segment_survey *survey,
    const struct ql_segment *segment,
    uint64_t behind,
    const uint8_t *block)
{
    struct ql_frame frame;
    if (ql_frame_decode(block, &frame) != QL_BLOCK_GOOD || frame.position < behind) return;
    uint64_t base = frame.position - behind;
    if (segment->state != QL_SEGMENT_SPARE && frame.incarnation == segment->incarnation &&
        base == segment->base)
        survey->fitting++;
    if (survey->count == 0 || frame.incarnation > survey->incarnation)
        *survey = (struct ql_segment_survey){
            .fitting = survey->fitting,
            .incarnation = frame.incarnation,
            .base = base,
            .chain = behind == 0 ? frame.previous : 0,
            .wall_ms = frame.wall_ms,
        };
    if (frame.incarnation == survey->incarnation && base == survey->base) survey->count++;
}

void
ql_segment_become(
    struct ql_env *env,
    struct ql_segment *segment,
    const char *log,
    const struct ql_segment_survey *survey)
{
    char path[QL_PATH_MAX];
    segment->state = QL_SEGMENT_ACTIVE;
    segment->incarnation = survey->incarnation;
    segment->base = survey->base;
    segment->chain = survey->chain;
    segment->opened_ms = survey->wall_ms;
    segment->mended = true;
    QL_TELL(
        env, ROT, .log = log, .path = ql_segment_path(env, log, segment->number, path),
        .position = survey->base, .bytes = QL_BLOCK,
        .text = "the segment's header is damaged; its frames tell the same");
}

/* 0, or negative errno of the last try; behind the end of the file there are zeros. */
static int
segment_read(
    struct ql_env *env, int file, uint64_t at, const struct ql_buffer *buffer, uint32_t size)
{
    int rv = -EIO;
    for (unsigned i = 0; i < QL_READ_TRIES && rv == -EIO; i++) {
        struct ql_transfer read = {
            .op = {
                .kind = QLOG_IO_READ,
                .file = file,
                .buffer = -1,
                .data = buffer->data,
                .length = size,
                .at = at,
            },
        };
        rv = ql_transfer_wait(env->io, &read);
    }
    return rv;
}

static enum q_err
segment_read_fail(const char *path, uint64_t at, int rv)
{
    return Q_FAIL(
        q_err_from_errno(-rv), .path = path, .position = (int64_t)at, .sys = -rv,
        .what = q_text(
            "a segment can't be read, in %u tries: what it is is not known",
            (unsigned)QL_READ_TRIES),
        .hint = QL_UNREADABLE_HINT);
}

void
ql_segment_free(struct ql_env *env, struct ql_segment *segment)
{
    if (segment == NULL) return;
    Q_ASSERT(segment->pins == 0);
    env->io->table->close(env->io, segment->file);
    free(segment);
}

void
ql_segment_activation(
    const struct ql_env *env, const struct ql_segment *segment, const char *log, uint8_t *block)
{
    struct ql_segment_header header = {
        .in_use = segment->state != QL_SEGMENT_SPARE,
        .incarnation = segment->incarnation,
        .base = segment->base,
        .file_size = segment->file_size,
        .generation = env->generation,
        .created_ms = segment->opened_ms,
        .chain = segment->chain,
    };
    memcpy(header.store_id, env->store_id, sizeof(header.store_id));
    (void)snprintf(header.log_name, sizeof(header.log_name), "%s", log);
    ql_segment_header_encode(&header, block);
}

enum q_err
ql_segment_write_header(struct ql_env *env, const struct ql_segment *segment, const char *log)
{
    struct ql_buffer *buffer;
    Q_TRY(ql_buffer_take(env, QL_BLOCK, &buffer));
    ql_segment_activation(env, segment, log, buffer->data);
    struct ql_transfer write = {
        .op = {
            .kind = QLOG_IO_WRITE,
            .durable = true,
            .file = segment->file,
            .buffer = buffer->index,
            .data = buffer->data,
            .length = QL_BLOCK,
        },
    };
    int rv = ql_transfer_wait(env->io, &write);
    ql_buffer_give(env, buffer);
    if (rv == 0) return Q_OK;
    char path[QL_PATH_MAX];
    return Q_FAIL(
        q_err_from_errno(-rv), .path = ql_segment_path(env, log, segment->number, path), .sys = -rv,
        .what = "write a segment's header");
}

enum q_err
ql_segment_recycle(
    struct ql_env *env, struct ql_segment *segment, const char *log, uint64_t incarnation)
{
    segment->state = QL_SEGMENT_SPARE;
    if (!QL_PLANTED(recycled_as_is)) segment->incarnation = incarnation;
    segment->base = 0;
    segment->end = 0;
    segment->chain = 0;
    segment->zeroed = segment->file_size;
    return ql_segment_write_header(env, segment, log);
}

void
ql_segment_pin(struct ql_segment *segment)
{
    segment->pins++;
}

void
ql_segment_unpin(struct ql_segment *segment)
{
    Q_ASSERT(segment->pins > 0);
    segment->pins--;
}

enum q_err
ql_segment_set_add(struct ql_segment_set *set, struct ql_segment *segment)
{
    if (set->count == set->capacity) {
        uint32_t capacity = set->capacity == 0 ? 8 : set->capacity * 2;
        struct ql_segment **segments =
            realloc(set->segments, capacity * sizeof(struct ql_segment *));
        if (segments == NULL) return Q_FAIL(Q_E_NOMEM, .what = "table of segments");
        set->segments = segments;
        set->capacity = capacity;
    }
    uint32_t at = set->count;
    while (at > 0 && set->segments[at - 1]->base > segment->base) {
        set->segments[at] = set->segments[at - 1];
        at--;
    }
    set->segments[at] = segment;
    set->count++;
    return Q_OK;
}

struct ql_segment *
ql_segment_set_find(const struct ql_segment_set *set, uint64_t position)
{
    uint32_t low = 0;
    uint32_t high = set->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (set->segments[middle]->base <= position)
            low = middle + 1;
        else
            high = middle;
    }
    return low == 0 ? NULL : set->segments[low - 1];
}

struct ql_segment *
ql_segment_set_next(const struct ql_segment_set *set, uint64_t position)
{
    for (uint32_t i = 0; i < set->count; i++)
        if (set->segments[i]->base > position) return set->segments[i];
    return NULL;
}

void
ql_segment_set_free(struct ql_env *env, struct ql_segment_set *set)
{
    for (uint32_t i = 0; i < set->count; i++)
        ql_segment_free(env, set->segments[i]);
    free(set->segments);
    *set = (struct ql_segment_set){ 0 };
}
