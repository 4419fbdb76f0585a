#include "store/memory.h"

#include <qbase/bytes.h>
#include <qbase/text.h>
#include <stdio.h>

#include "planted.h"
#include "read/reader.h"
#include "segment/buffer.h"
#include "segment/window.h"
#include "store/store.h"

enum {
    KIB = 1024,
    MIB = 1024 * 1024,

    MAILBOX_DEFAULT = 65536,
    SUBJECTS_DEFAULT = 1000 * 1000,
    PRODUCERS_DEFAULT = 100 * 1000,
    INDEX_ENTRIES_DEFAULT = 8 * 1024 * 1024,
    TAIL_DEFAULT = 16 * MIB,
    READ_DEFAULT = 32 * MIB,
    GROUPS_DEFAULT = 512 * MIB,

    /* With less, frames and reads of the default size do not fit. */
    TAIL_LEAST = 4 * MIB,
    READ_LEAST = 8 * MIB,
    GROUPS_LEAST = 8 * MIB,
    INDEX_ENTRIES_LEAST = 64 * 1024,
    PRODUCERS_LEAST = 1000,

    /* Of what one costs: with the allocator's own, and its share of tables that grow by doubling. */
    BLOCK_BYTES = 16,
    TABLE_BYTES = 2 * 8 + 2 * 2 * 16, /* a pointer, and a name's place in a map */
    SUBJECT_BYTES = sizeof(struct ql_subject) + 25 + BLOCK_BYTES + TABLE_BYTES,
    PRODUCER_BYTES = sizeof(struct ql_producer) + 64 * sizeof(struct ql_result) + 2 * BLOCK_BYTES +
                     TABLE_BYTES + 2 * 8 + 2 * 4,
    ENTRY_BYTES = sizeof(struct ql_node) + sizeof(struct ql_key_row),
    ACTION_BYTES = 512,
    BUILD_SHARE = 2, /* of a segment: batches of 200 bytes with a key each, sorted */

    /* Pulls' plans, a window over a log, dead letters being copied. */
    WORK_BYTES = 8 * MIB + MIB + 2 * QLOG_REQUEST_BYTES_MAX,
    WANTS_BYTES = 2 * MIB,
};

/* A limit that may be less than its default. */
struct elastic {
    enum qlog_memory_row row;
    uint64_t wanted; /* bytes */
    uint64_t least;
};

static enum q_err memory_fit(
    struct ql_memory *memory, const struct elastic *elastics, unsigned elastic_count);
static enum q_err memory_refuse(const struct ql_memory *memory);
static uint64_t or_default(uint64_t given, uint64_t fallback);

enum q_err
ql_memory_plan(
    const struct qlog_store_options *options,
    const struct ql_env *env,
    struct ql_memory *ret_memory)
{
    struct ql_memory *memory = ret_memory;
    *memory = (struct ql_memory){
        .max = options->memory_max,
        .mailbox_max = (uint32_t)or_default(options->mailbox_max, MAILBOX_DEFAULT),
        .subjects_max = (uint32_t)or_default(options->subjects_max, SUBJECTS_DEFAULT),
    };
    uint64_t frame = q_align_up(env->frame_bytes_max, QL_BLOCK) + QL_BLOCK;
    uint64_t *planned = memory->planned;
    planned[QLOG_MEMORY_frames] = (uint64_t)QL_STORE_LOGS * (env->depth_max + 1) * frame +
                                  (uint64_t)env->depth_max * QLOG_REQUEST_BYTES_MAX;
    planned[QLOG_MEMORY_build] = env->segment_bytes / BUILD_SHARE;
    planned[QLOG_MEMORY_subjects] = (uint64_t)memory->subjects_max * SUBJECT_BYTES;
    planned[QLOG_MEMORY_actions] = (uint64_t)memory->mailbox_max * ACTION_BYTES;
    planned[QLOG_MEMORY_work] = WORK_BYTES;

    const struct {
        enum qlog_memory_row row;
        uint64_t given;
        uint64_t fallback;
        uint64_t least;
        uint64_t each;
    } limits[] = {
        { QLOG_MEMORY_tail, options->tail_bytes_max, TAIL_DEFAULT, TAIL_LEAST, 1 },
        { QLOG_MEMORY_reads, options->read_bytes_max, READ_DEFAULT, READ_LEAST, 1 },
        { QLOG_MEMORY_index, options->index_entries_max, INDEX_ENTRIES_DEFAULT, INDEX_ENTRIES_LEAST,
          ENTRY_BYTES },
        { QLOG_MEMORY_groups, options->group_bytes_max, GROUPS_DEFAULT, GROUPS_LEAST, 1 },
        { QLOG_MEMORY_producers, options->producers_max, PRODUCERS_DEFAULT, PRODUCERS_LEAST,
          PRODUCER_BYTES },
    };
    struct elastic elastics[sizeof(limits) / sizeof(limits[0])];
    unsigned elastic_count = 0;
    for (unsigned i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        planned[limits[i].row] = or_default(limits[i].given, limits[i].fallback) * limits[i].each;
        if (limits[i].given != 0) continue;
        elastics[elastic_count++] = (struct elastic){
            .row = limits[i].row,
            .wanted = planned[limits[i].row],
            .least = limits[i].least * limits[i].each,
        };
    }
    if (memory->max != 0 && !QL_PLANTED(memory_unfitted))
        Q_TRY(memory_fit(memory, elastics, elastic_count));
    memory->tail_bytes = planned[QLOG_MEMORY_tail];
    memory->read_bytes = planned[QLOG_MEMORY_reads];
    memory->group_bytes = planned[QLOG_MEMORY_groups];
    memory->index_entries_max = (uint32_t)(planned[QLOG_MEMORY_index] / ENTRY_BYTES);
    memory->producers_max = (uint32_t)(planned[QLOG_MEMORY_producers] / PRODUCER_BYTES);
    planned[QLOG_MEMORY_reads] += WANTS_BYTES;
    return Q_OK;
}

static uint64_t
or_default(uint64_t given, uint64_t fallback)
{
    return given == 0 ? fallback : given;
}

static uint64_t
memory_sum(const struct ql_memory *memory)
{
    uint64_t sum = WANTS_BYTES;
    for (unsigned i = 0; i < QLOG_MEMORY_ROWS; i++)
        sum += memory->planned[i];
    return sum;
}

static enum q_err
memory_fit(struct ql_memory *memory, const struct elastic *elastics, unsigned elastic_count)
{
    if (memory_sum(memory) <= memory->max) return Q_OK;
    uint64_t above_least = 0;
    for (unsigned i = 0; i < elastic_count; i++) {
        memory->planned[elastics[i].row] = elastics[i].least;
        above_least += elastics[i].wanted - elastics[i].least;
    }
    if (memory_sum(memory) > memory->max) return memory_refuse(memory);
    /* In KiB: the product of two of them fits. */
    uint64_t left = (memory->max - memory_sum(memory)) / KIB;
    for (unsigned i = 0; i < elastic_count; i++) {
        uint64_t above = (elastics[i].wanted - elastics[i].least) / KIB;
        memory->planned[elastics[i].row] += above * left / (above_least / KIB) * KIB;
    }
    return Q_OK;
}

static enum q_err
memory_refuse(const struct ql_memory *memory)
{
    char needed[16];
    char limit[16];
    char text[QLOG_MEMORY_TEXT_MAX];
    struct qlog_memory rows;
    for (unsigned i = 0; i < QLOG_MEMORY_ROWS; i++)
        rows.rows[i].planned = memory->planned[i];
    return Q_FAIL(
        Q_INVALID,
        .what = q_text(
            "%s of memory at most, and the limits need %s at least: %s",
            q_text_format_size(memory->max, limit, sizeof(limit)),
            q_text_format_size(memory_sum(memory), needed, sizeof(needed)),
            qlog_memory_text(&rows, text)),
        .hint = "allow more memory, fewer subjects or smaller segments");
}

/* --- What is told. */

static const struct {
    const char *name;
    const char *formula;
} row_texts[QLOG_MEMORY_ROWS] = {
#define ROW_TEXT(name, formula) { #name, formula },
    QLOG_MEMORY_LIST(ROW_TEXT)
#undef ROW_TEXT
};

void
qlog_store_memory(struct qlog_store *store, struct qlog_memory *ret_memory)
{
    const struct ql_entries *entries = &store->index.entries;
    const struct ql_index_files *files = &store->index.files;
    const struct ql_producers *producers = &store->producers;
    uint64_t results = 0;
    for (uint32_t i = 0; i < producers->count; i++)
        if (producers->producers[i] != NULL)
            results += sizeof(struct ql_producer) +
                       producers->producers[i]->capacity * sizeof(struct ql_result);
    const uint64_t used[QLOG_MEMORY_ROWS] = {
        [QLOG_MEMORY_frames] = store->home->env.buffer_bytes,
        [QLOG_MEMORY_tail] = store->reader.keep.bytes[QL_KEEP_TAIL],
        [QLOG_MEMORY_reads] = store->reader.keep.bytes[QL_KEEP_FETCHED],
        [QLOG_MEMORY_index] =
            entries->chunk_count * (uint64_t)QL_ENTRIES_CHUNK * sizeof(struct ql_node) +
            entries->keys.chunk_count * (uint64_t)QL_KEY_ROWS_CHUNK * sizeof(struct ql_key_row),
        [QLOG_MEMORY_build] = files->step > QL_INDEX_BUILDING ? files->build.file_size : 0,
        [QLOG_MEMORY_subjects] = store->index.count * (uint64_t)SUBJECT_BYTES,
        [QLOG_MEMORY_groups] = store->room.used,
        [QLOG_MEMORY_producers] = results,
        [QLOG_MEMORY_actions] = store->action_bytes,
        [QLOG_MEMORY_work] = sizeof(*store) + sizeof(*store->home),
    };
    *ret_memory = (struct qlog_memory){ .max = store->memory.max };
    for (unsigned i = 0; i < QLOG_MEMORY_ROWS; i++) {
        ret_memory->rows[i].name = row_texts[i].name;
        ret_memory->rows[i].formula = row_texts[i].formula;
        ret_memory->rows[i].planned = store->memory.planned[i];
        ret_memory->rows[i].used = used[i];
        ret_memory->planned += store->memory.planned[i];
        ret_memory->used += used[i];
    }
}

const char *
qlog_memory_text(const struct qlog_memory *memory, char out[QLOG_MEMORY_TEXT_MAX])
{
    size_t at = 0;
    for (unsigned i = 0; i < QLOG_MEMORY_ROWS && at < QLOG_MEMORY_TEXT_MAX; i++) {
        char size[16];
        int length = snprintf(
            out + at, QLOG_MEMORY_TEXT_MAX - at, "%s%s %s", i == 0 ? "" : ", ", row_texts[i].name,
            q_text_format_size(memory->rows[i].planned, size, sizeof(size)));
        at += (size_t)length;
    }
    return out;
}
