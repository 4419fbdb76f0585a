#include "segment/identify.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/bytes.h>

#include "segment/dir.h"

struct segment_numbers {
    uint32_t *numbers;
    uint32_t count;
    uint32_t capacity;
    bool full;
};

static bool list_segment(void *context, const char *name);
static enum q_err identify(
    const struct ql_log *log, struct ql_segment **opened, uint32_t count, uint64_t first);
static bool is_taken(
    struct ql_segment *const *opened, uint32_t count, uint32_t index, uint64_t incarnation);
static enum q_err sort_in(struct ql_log *log, struct ql_segment *segment, uint64_t first);

enum q_err
ql_log_open_segments(struct ql_log *log, uint64_t first)
{
    struct ql_env *env = log->env;
    struct segment_numbers list = { 0 };
    char path[QL_PATH_MAX];
    int rv = env->io->table->list(env->io, ql_dir_path(env, log->name, path), list_segment, &list);
    enum q_err err = Q_OK;
    if (rv < 0) err = ql_dir_fail(env, log->name, rv, "list a log's segments");
    if (list.full) err = Q_FAIL(Q_E_NOMEM, .what = "list of segments");
    struct ql_segment **opened = calloc(list.count + 1, sizeof(*opened));
    if (opened == NULL) err = Q_FAIL(Q_E_NOMEM, .what = "list of segments");
    for (uint32_t i = 0; err == Q_OK && i < list.count; i++) {
        log->number_next = (uint32_t)q_max_u64(log->number_next, list.numbers[i] + 1);
        err = ql_segment_open(env, log->name, list.numbers[i], &opened[i]);
        if (err == Q_NOT_FOUND) {
            /* A spare whose making was cut short: nothing was ever in it. */
            err = Q_OK;
            ql_segment_discard(
                env, log->name, list.numbers[i], "a segment whose making was cut short");
        }
    }
    if (err == Q_OK) err = identify(log, opened, list.count, first);
    /* Before a file goes: what gave a wrong header away may be among those, and the next start would
     * take it for right. */
    for (uint32_t i = 0; err == Q_OK && i < list.count && !env->read_only; i++)
        if (opened[i] != NULL && opened[i]->mended)
            err = ql_segment_write_header(env, opened[i], log->name);
    for (uint32_t i = 0; err == Q_OK && i < list.count; i++) {
        if (opened[i] == NULL) continue;
        err = sort_in(log, opened[i], first);
        if (err == Q_OK) opened[i] = NULL;
    }
    for (uint32_t i = 0; opened != NULL && i < list.count; i++)
        ql_segment_free(env, opened[i]);
    free(opened);
    free(list.numbers);
    return err;
}

bool
ql_segments_peek(struct ql_env *env, const char *log, uint8_t ret_store_id[16])
{
    struct segment_numbers list = { 0 };
    char path[QL_PATH_MAX];
    bool found = false;
    int rv = env->io->table->list(env->io, ql_dir_path(env, log, path), list_segment, &list);
    for (uint32_t i = 0; rv == 0 && i < list.count && !found; i++)
        found = ql_segment_peek(env, log, list.numbers[i], ret_store_id);
    free(list.numbers);
    return found;
}

void
ql_segment_discard(struct ql_env *env, const char *log, uint32_t number, const char *why)
{
    char path[QL_PATH_MAX];
    if (env->read_only) return;
    ql_segment_path(env, log, number, path);
    QL_TELL(env, DISCARDED, .log = log, .path = path, .text = why);
    (void)env->io->table->unlink(env->io, path);
}

static bool
list_segment(void *context, const char *name)
{
    struct segment_numbers *list = context;
    static const char prefix[] = "segment-";
    if (strncmp(name, prefix, sizeof(prefix) - 1) != 0) return true;
    char *end;
    unsigned long number = strtoul(name + sizeof(prefix) - 1, &end, 10);
    if (*end != '\0' || end == name + sizeof(prefix) - 1 || number >= UINT32_MAX) return true;
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        uint32_t *numbers = realloc(list->numbers, capacity * sizeof(uint32_t));
        if (numbers == NULL) {
            list->full = true;
            return false;
        }
        list->numbers = numbers;
        list->capacity = capacity;
    }
    list->numbers[list->count++] = (uint32_t)number;
    return true;
}

/*
 * No two files have one incarnation, and no frame contradicts the header before it. Where that is
 * so, a header was written to the wrong place or not at all, and the frames say what the file is,
 * unless it is a frame that strayed: that one is at home in another file, or alone.
 */
static enum q_err
identify(const struct ql_log *log, struct ql_segment **opened, uint32_t count, uint64_t first)
{
    for (uint32_t i = 0; i < count; i++)
        if (opened[i] != NULL && is_taken(opened, count, i, opened[i]->incarnation))
            opened[i]->doubtful = true;
    for (uint32_t i = 0; i < count; i++) {
        struct ql_segment *segment = opened[i];
        if (segment == NULL || !segment->doubtful) continue;
        struct ql_segment_survey survey;
        Q_TRY(ql_segment_survey(log->env, segment, log->name, &survey));
        bool dropped = segment->state != QL_SEGMENT_SPARE && segment->base < first;
        bool newer = survey.incarnation > segment->incarnation && (survey.count > 1 || dropped);
        bool twin = is_taken(opened, count, i, segment->incarnation);
        segment->doubtful = survey.fitting == 0 || newer;
        if (!segment->doubtful || survey.count == 0 || survey.base < first) continue;
        if (!newer && !twin && survey.incarnation != segment->incarnation) continue;
        if (!is_taken(opened, count, i, survey.incarnation))
            ql_segment_become(log->env, segment, log->name, &survey);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (opened[i] == NULL || !opened[i]->doubtful) continue;
        if (!is_taken(opened, count, i, opened[i]->incarnation)) continue;
        /* Nothing in it tells what it is. The file stays. */
        ql_segment_free(log->env, opened[i]);
        opened[i] = NULL;
    }
    return Q_OK;
}

/* By another file. */
static bool
is_taken(struct ql_segment *const *opened, uint32_t count, uint32_t index, uint64_t incarnation)
{
    for (uint32_t i = 0; i < count; i++)
        if (i != index && opened[i] != NULL && opened[i]->incarnation == incarnation) return true;
    return false;
}

/* Into the set, to the spares, or away. Takes it when the answer is Q_OK. */
static enum q_err
sort_in(struct ql_log *log, struct ql_segment *segment, uint64_t first)
{
    log->incarnation = q_max_u64(log->incarnation, segment->incarnation);
    bool dropped = segment->state != QL_SEGMENT_SPARE && segment->base < first;
    if (segment->state == QL_SEGMENT_SPARE && log->spare_count < QL_SPARES_MAX) {
        log->spares[log->spare_count++] = segment;
    } else if (segment->state == QL_SEGMENT_SPARE || dropped) {
        /* Enough of them; and what lies below the first position was dropped before. */
        ql_segment_discard(
            log->env, log->name, segment->number,
            dropped ? "a segment that retention had dropped" : "a spare too many");
        ql_segment_free(log->env, segment);
    } else {
        return ql_segment_set_add(&log->segments, segment);
    }
    return Q_OK;
}
